/**
 * What Kotlin's users expect on top of the generated half: cold flows, which collect until the client is closed.
 *
 * A coroutine that is cancelled cancels its call, its wait and its flow.
 */
package dev.towline

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.isActive

/**
 * Pushes, each acknowledged to the gateway when the collector has handled it. One whose collector fails or is cancelled
 * comes again, to the next one. Several collectors share them.
 */
fun Client.pushFlow(): Flow<Push> = flow {
    pushes().use { listener ->
        while (true) {
            val push = listener.next() ?: break
            try {
                emit(push)
            } catch (end: CancellationException) {
                // `first` and `take` end a flow so when they have what they want; a cancelled coroutine is not active.
                if (currentCoroutineContext().isActive) listener.done()
                throw end
            }
        }
    }
}

/** The states of the line, the present one first; a slow collector sees the newest, not all. */
fun Client.stateFlow(): Flow<LineState> = flow {
    states().use { listener ->
        while (true) emit(listener.next() ?: break)
    }
}

/** How good the network is, what is known at present first. */
fun Client.qualityFlow(): Flow<Quality> = flow {
    qualities().use { listener ->
        while (true) emit(listener.next() ?: break)
    }
}

/** Outcomes of calls that were submitted, in earlier runs of the app too: each again until it is acknowledged. */
fun Client.outcomeFlow(): Flow<DurableOutcome> = flow {
    outcomes().use { listener ->
        while (true) emit(listener.next() ?: break)
    }
}

/** Names that the app looks up itself, where the option `ownResolver` is set: each is answered, or fails when closed. */
fun Client.nameFlow(): Flow<NameQuestion> = flow {
    names().use { listener ->
        while (true) emit(listener.next() ?: break)
    }
}

/** What all clients of the process log, from [level] upwards. */
fun logFlow(level: LogLevel): Flow<LogRecord> = flow {
    logs(level).use { listener ->
        while (true) emit(listener.next() ?: break)
    }
}

/** The messages of a stream. Those that are not collected hold their sender back. */
fun MessageStream.messageFlow(): Flow<ByteArray> = flow {
    while (true) emit(message() ?: break)
}

/** The body of an HTTP answer in one piece. */
val Response.body: ByteArray
    get() = messages.fold(ByteArray(0)) { whole, part -> whole + part }
