// What an app does with the Kotlin binding: AppKt EDGE PLAIN CA.pem. Prints `ok` and the name of each thing.

import dev.towline.*
import java.io.File
import java.nio.file.Files
import java.time.Duration
import java.util.Collections
import kotlinx.coroutines.*
import kotlinx.coroutines.flow.*

const val UNARY = "/towline.demo.v1.Echo/Unary"
const val BIDI = "/towline.demo.v1.Echo/BidiEcho"

/** EchoRequest { text: words } */
fun text(words: String) = byteArrayOf(0x0A, words.length.toByte()) + words.encodeToByteArray()

/** EchoRequest { delay_ms: 60000 } */
val SLOW = byteArrayOf(0x18, 0xE0.toByte(), 0xD4.toByte(), 3)

class App(private val edge: String, private val plain: String, private val ca: ByteArray) {
    private fun client() = Client(ClientOptions(endpoints = listOf(edge), rootsPem = ca))

    suspend fun calls() = client().use { client ->
        check(client.unary(Request(UNARY, text("hello"))).startsWith(text("hello")))
        val answer = client.call(Request("/hello", method = "GET", deadline = Duration.ofSeconds(10)))
        check(answer.status == 200.toUShort() && answer.body.isNotEmpty())
        check(answer.timeline.elapsed > Duration.ZERO)
    }

    suspend fun streams() = client().use { client ->
        val stream = client.stream(Request(BIDI))
        for (word in listOf("one", "two")) stream.send(text(word))
        stream.finish()
        val messages = stream.messageFlow().toList()
        check(messages.size == 2 && messages[1].startsWith(text("two")))
        check(stream.end().grpcStatus?.code == 0u)
        stream.close()
    }

    suspend fun pushes() = client().use { client ->
        client.subscribe("kotlin/#")
        client.publish("kotlin/1", "first".encodeToByteArray())
        check(client.pushFlow().first().payload.decodeToString() == "first")
        client.publish("kotlin/2", "second".encodeToByteArray())
        val failed = runCatching { client.pushFlow().collect { error("not handled") } }
        check(failed.exceptionOrNull() is IllegalStateException) { failed }
        check(client.pushFlow().first().payload.decodeToString() == "second")
    }

    suspend fun durable() {
        val identity = Files.createTempDirectory("towline").resolve("identity").toString()
        val options = ClientOptions(endpoints = listOf(edge), rootsPem = ca, identityFile = identity)
        Client(options).use { client ->
            client.submit(Request(UNARY, text("pay")), "order-1", "cart".encodeToByteArray())
            client.shutdown()
        }
        Client(options).use { client ->
            val outcome = client.outcomeFlow().first()
            check(outcome.key() == "order-1" && outcome.tag().decodeToString() == "cart")
            check(outcome.message().startsWith(text("pay")) && outcome.response().status == 200.toUShort())
            client.acknowledge("order-1")
            refused<TowlineException.Argument> { client.acknowledge("order-1") }
            client.shutdown()
        }
    }

    suspend fun statesAndSignals() = coroutineScope {
        client().use { client ->
            val states = async { client.stateFlow().toList() }
            client.unary(Request(UNARY, text("up")))
            client.background()
            client.foreground()
            client.networkChanged(Network(NetworkKind.WIFI, key = "home", metered = false))
            client.networkJoined(Network(NetworkKind.CELLULAR, metered = true))
            client.qualityFlow().first()
            client.shutdown()
            val seen = states.await()
            check(seen.any { it is LineState.Online } && seen.last() is LineState.Closed) { seen }
        }
    }

    suspend fun ownResolver() = coroutineScope {
        val endpoint = "localhost:" + edge.substringAfterLast(':')
        Client(ClientOptions(endpoints = listOf(endpoint), ownResolver = true, rootsPem = ca)).use { client ->
            val asked = async {
                client.nameFlow().onEach { question ->
                    question.use { it.answer(listOf("127.0.0.1")) }
                }.count()
            }
            check(client.unary(Request(UNARY, text("found"))).startsWith(text("found")))
            check(client.ticketCounts().damaged == 0uL)
            client.shutdown()
            check(asked.await() > 0)
        }
    }

    suspend fun sockets() = coroutineScope {
        val bound = Collections.synchronizedList(mutableListOf<String>())
        val binder = object : SocketBinder {
            override fun bind(fd: Int, peer: String, network: Network) {
                check(fd > 2 && peer == "127.0.0.1") { "$fd $peer" }
                bound += network.key
                if (network.key == "cellar") throw BinderException.Refused("cellar is gone")
                if (network.key == "attic") error("not even refused")
            }
        }
        Client(ClientOptions(endpoints = listOf(edge), rootsPem = ca), binder).use { client ->
            client.networkChanged(Network(NetworkKind.WIFI, key = "home"))
            check(client.unary(Request(UNARY, text("bound"))).startsWith(text("bound")))
            check("home" in bound) { bound }
            client.networkJoined(Network(NetworkKind.CELLULAR, key = "street"))
            while ("street" !in bound) client.unary(Request(UNARY, text("on")))
            for ((key, reason) in listOf("cellar" to "cellar is gone", "attic" to "not even refused")) {
                client.networkChanged(Network(NetworkKind.WIFI, key = key))
                client.stateFlow().first { it is LineState.Offline && reason in it.reason }
            }
            client.networkChanged(Network(NetworkKind.WIFI, key = "home"))
            check(client.unary(Request(UNARY, text("back"))).startsWith(text("back")))
        }
    }

    suspend fun misuse() {
        refused<TowlineException.Config> { Client(ClientOptions(listOf(edge))) }
        refused<TowlineException.Config> { Client(ClientOptions(listOf("https://edge/"), rootsPem = ca)) }
        val client = client()
        refused<TowlineException.Argument> { client.call(Request("hello")) }
        val over = refused<TowlineException.Rpc> { client.unary(Request(UNARY, SLOW, deadline = Duration.ofMillis(50))) }
        check(over.kind == ErrorKind.DEADLINE_EXCEEDED)
        client.shutdown()
        refused<TowlineException.Closed> { client.call(Request("/hello", method = "GET")) }
        refused<TowlineException.Closed> { client.foreground() }
        client.close()
        refused<IllegalStateException> { client.clientId() }
    }

    suspend fun cancellation() = coroutineScope {
        client().use { client ->
            val cancelled = launch(start = CoroutineStart.UNDISPATCHED) { client.unary(Request(UNARY, SLOW)) }
            cancelled.cancelAndJoin()
            val handle = Cancellation()
            val slow = async(start = CoroutineStart.UNDISPATCHED) {
                refused<TowlineException.Rpc> { client.unary(Request(UNARY, SLOW), handle) }
            }
            handle.cancel()
            check(slow.await().kind == ErrorKind.CANCELLED)
            // A dispatcher that resumes where it is woken: on the engine's own thread.
            withContext(Dispatchers.Unconfined) {
                repeat(10) { check(client.unary(Request(UNARY, text("on"))).startsWith(text("on"))) }
            }
        }
    }

    suspend fun panics() {
        refused<InternalException> { panicProbe() }
        refused<TowlineException.Internal> { panicProbeLater() }
    }

    suspend fun run() {
        val parts = listOf(
            ::calls, ::streams, ::pushes, ::durable, ::statesAndSignals, ::ownResolver, ::sockets, ::misuse, ::cancellation,
            ::panics,
        )
        for (part in parts) {
            withTimeout(60_000) { part() }
            println("ok ${part.name}")
        }
    }
}

fun ByteArray.startsWith(other: ByteArray) = take(other.size) == other.toList()

suspend inline fun <reified E : Throwable> refused(crossinline work: suspend () -> Any?): E {
    try {
        work()
    } catch (error: Throwable) {
        return error as? E ?: throw error
    }
    throw AssertionError("${E::class} was expected")
}

fun main(arguments: Array<String>) = runBlocking {
    App(arguments[0], arguments[1], File(arguments[2]).readBytes()).run()
}
