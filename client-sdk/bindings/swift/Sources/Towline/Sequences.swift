// What Swift's users expect on top of the generated half: asynchronous sequences, and calls that end with their task.

import Foundation

/// What a listener hands out, until the client is closed. Each loop listens for itself: one that is left ends its
/// listener, and so does one whose task is cancelled, which ends as behind the last item. A loop does not keep its
/// client alive.
public struct Listening<Element: Sendable>: AsyncSequence, Sendable {
    let listen: @Sendable () throws -> Listener<Element>

    public func makeAsyncIterator() -> Iterator { Iterator(listener: Result { try listen() }) }

    public struct Iterator: AsyncIteratorProtocol {
        let listener: Result<Listener<Element>, Error>

        public func next() async throws -> Element? {
            let listener = try listener.get()
            return try await withTaskCancellationHandler(operation: listener.next, onCancel: listener.stop)
        }
    }
}

/// Whoever holds this holds what listens.
struct Listener<Element: Sendable>: Sendable {
    let next: @Sendable () async throws -> Element?
    let stop: @Sendable () -> Void
}

extension Client {
    /// Pushes, each acknowledged to the gateway when the next one is asked for: one whose loop ends comes again, to the
    /// next loop. `pushes()` is the listener itself, with `done` for who wants no other. Several loops share them.
    public func pushSequence() -> Listening<Push> {
        Listening {
            let listener = try self.pushes()
            return Listener(next: { try await listener.next() }, stop: { listener.stop() })
        }
    }

    /// The states of the line, the present one first; who iterates slowly sees the newest, not all.
    public func stateSequence() -> Listening<LineState> {
        Listening {
            let listener = self.states()
            return Listener(next: { try await listener.next() }, stop: { listener.stop() })
        }
    }

    /// How good the network is, what is known at present first.
    public func qualitySequence() -> Listening<Quality> {
        Listening {
            let listener = self.qualities()
            return Listener(next: { try await listener.next() }, stop: { listener.stop() })
        }
    }

    /// Outcomes of calls that were submitted, in earlier runs of the app too: each again until it is acknowledged.
    public func outcomeSequence() -> Listening<DurableOutcome> {
        Listening {
            let listener = try self.outcomes()
            return Listener(next: { try await listener.next() }, stop: { listener.stop() })
        }
    }

    /// Names that the app looks up itself, where the option `ownResolver` is set: each is answered, or fails when it is
    /// released.
    public func nameSequence() -> Listening<NameQuestion> {
        Listening {
            let listener = try self.names()
            return Listener(next: { try await listener.next() }, stop: { listener.stop() })
        }
    }

    /// As `call`, and cancelled with its task: then it throws `TowlineError.Rpc` of the kind `cancelled`.
    public func call(_ request: Request) async throws -> Response {
        let cancellation = Cancellation()
        return try await withTaskCancellationHandler {
            try await call(request: request, cancellation: cancellation)
        } onCancel: {
            cancellation.cancel()
        }
    }

    /// As `unary`, and cancelled with its task: then it throws `TowlineError.Rpc` of the kind `cancelled`.
    public func unary(_ request: Request) async throws -> Data {
        let cancellation = Cancellation()
        return try await withTaskCancellationHandler {
            try await unary(request: request, cancellation: cancellation)
        } onCancel: {
            cancellation.cancel()
        }
    }
}

extension MessageStream {
    /// The messages of the stream, of which every loop takes on where the last was left. Cancelling the task that
    /// iterates cancels the stream, and the loop throws `TowlineError.Rpc` of the kind `cancelled`.
    public var messages: Listening<Data> {
        Listening { Listener(next: { try await self.message() }, stop: { try? self.cancel() }) }
    }
}

/// What all clients of the process log from now on, from `level` upwards. Loops over it share one listener.
public func logSequence(level: LogLevel) throws -> Listening<LogRecord> {
    let listener = try logs(level: level)
    return Listening { Listener(next: { try await listener.next() }, stop: { listener.stop() }) }
}

extension Response {
    /// The body of an HTTP answer in one piece.
    public var body: Data { messages.reduce(into: Data()) { $0.append($1) } }
}
