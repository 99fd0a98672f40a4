// What Swift's users expect on top of the generated half: asynchronous sequences, and calls that end with their task.

import Foundation

/// What a listener hands out, until the client is closed. Cancelling the task that iterates ends it.
public struct Listening<Element>: AsyncSequence, AsyncIteratorProtocol {
    let following: () async throws -> Element?
    let stop: @Sendable () -> Void

    public func makeAsyncIterator() -> Self { self }

    public func next() async throws -> Element? {
        try await withTaskCancellationHandler(operation: following, onCancel: stop)
    }
}

extension Client {
    /// Pushes, each acknowledged to the gateway when the next one is asked for: one whose loop ends comes again, to the next
    /// loop. `pushes()` is the listener itself, with `done` for who wants no other. Several sequences share them.
    public func pushSequence() throws -> Listening<Push> {
        let listener = try pushes()
        return Listening(following: { try await listener.next() }, stop: { listener.stop() })
    }

    /// The states of the line, the present one first; who iterates slowly sees the newest, not all.
    public func stateSequence() -> Listening<LineState> {
        let listener = states()
        return Listening(following: { try await listener.next() }, stop: { listener.stop() })
    }

    /// How good the network is, what is known at present first.
    public func qualitySequence() -> Listening<Quality> {
        let listener = qualities()
        return Listening(following: { try await listener.next() }, stop: { listener.stop() })
    }

    /// Outcomes of calls that were submitted, in earlier runs of the app too: each again until it is acknowledged.
    public func outcomeSequence() throws -> Listening<DurableOutcome> {
        let listener = try outcomes()
        return Listening(following: { try await listener.next() }, stop: { listener.stop() })
    }

    /// As `call`, and cancelled with its task.
    public func call(_ request: Request) async throws -> Response {
        let cancellation = Cancellation()
        return try await withTaskCancellationHandler {
            try await call(request: request, cancellation: cancellation)
        } onCancel: {
            cancellation.cancel()
        }
    }

    /// As `unary`, and cancelled with its task.
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
    /// The messages of the stream. Cancelling the task that iterates cancels the stream.
    public var messages: Listening<Data> {
        Listening(following: { try await self.message() }, stop: { try? self.cancel() })
    }
}

/// What all clients of the process log, from `level` upwards.
public func logSequence(level: LogLevel) throws -> Listening<LogRecord> {
    let listener = try logs(level: level)
    return Listening(following: { try await listener.next() }, stop: { listener.stop() })
}

extension Response {
    /// The body of an HTTP answer in one piece.
    public var body: Data { messages.reduce(into: Data()) { $0.append($1) } }
}
