// What an app does with the Swift binding: App EDGE PLAIN CA.pem. Prints `ok` and the name of each thing.

import Foundation
import Towline

let unaryPath = "/towline.demo.v1.Echo/Unary"
let bidiPath = "/towline.demo.v1.Echo/BidiEcho"

/// EchoRequest { text: words }
func text(_ words: String) -> Data { Data([0x0A, UInt8(words.utf8.count)]) + Data(words.utf8) }

/// EchoRequest { delay_ms: 60000 }
let slow = Data([0x18, 0xE0, 0xD4, 3])

/// EchoRequest { fail_with_code: 5 }
let failing = Data([0x28, 5])

struct Failed: Error, CustomStringConvertible {
    let description: String
}

func check(_ condition: Bool, _ said: Any = "", line: Int = #line) throws {
    if !condition { throw Failed(description: "line \(line): not so: \(said)") }
}

/// The error of work that has to fail.
func refused<T: Sendable>(line: Int = #line, _ work: () async throws -> T) async throws -> TowlineError {
    let answer: T
    do { answer = try await work() } catch let error as TowlineError { return error }
    throw Failed(description: "line \(line): nothing was refused: \(answer)")
}

extension TowlineError {
    var isClosed: Bool { if case .Closed = self { true } else { false } }
    var option: String? { if case let .Config(option, _) = self { option } else { nil } }
    var argument: String? { if case let .Argument(argument, _) = self { argument } else { nil } }
    var kind: ErrorKind? { if case let .Rpc(kind, _, _, _, _, _) = self { kind } else { nil } }
    var timeline: Timeline? { if case let .Rpc(_, _, _, _, _, timeline) = self { timeline } else { nil } }
}

extension LineState {
    var isOnline: Bool { if case .online = self { true } else { false } }
    var isClosed: Bool { if case .closed = self { true } else { false } }
}

struct Parts: Sendable {
    let edge, plain: String
    let roots: Data

    func client(identityFile: String? = nil) throws -> Client {
        try Client(options: ClientOptions(endpoints: [edge], rootsPem: roots, identityFile: identityFile))
    }

    func calls() async throws {
        let client = try client()
        try check(try await client.unary(Request(path: unaryPath, message: text("hello"))).starts(with: text("hello")))
        let answer = try await client.call(Request(path: "/hello", method: "GET", deadline: 10))
        try check(answer.status == 200 && !answer.body.isEmpty && answer.timeline.elapsed > 0, answer)
        // Many at once, from tasks of their own.
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number in 0..<50 {
                group.addTask {
                    let reply = try await client.unary(Request(path: unaryPath, message: text("\(number)")))
                    try check(reply.starts(with: text("\(number)")))
                }
            }
            try await group.waitForAll()
        }
        try await client.shutdown()
    }

    func streams() async throws {
        let client = try client()
        let stream = try client.stream(request: Request(path: bidiPath))
        for word in ["one", "two", "three"] { try await stream.send(message: text(word)) }
        try await stream.finish()
        for try await message in stream.messages {
            try check(message.starts(with: text("one")))
            break
        }
        // A loop that was left leaves the rest to the next one.
        var rest: [Data] = []
        for try await message in stream.messages { rest.append(message) }
        try check(rest.count == 2 && rest[1].starts(with: text("three")), rest)
        try check(try await stream.end().grpcStatus?.code == 0)
        let error = try await refused { try await stream.send(message: Data()) }
        try check(error.argument == "stream", error)
        try await client.shutdown()
    }

    func pushes() async throws {
        let client = try client()
        try await client.subscribe(filter: "swift/#")
        try await client.publish(topic: "swift/1", payload: Data("first".utf8))
        let left = client.pushSequence()
        for try await push in left {
            try check(push.topic == "swift/1" && push.payload == Data("first".utf8), push)
            break
        }
        // It was not handled: the next loop gets it, though the sequence of the last is still held.
        try client.publishAndForget(topic: "swift/2", payload: Data("second".utf8))
        var got: [String] = []
        for try await push in client.pushSequence() {
            got.append(push.topic)
            if got.count == 2 { break }
        }
        try check(got == ["swift/1", "swift/2"], got)
        let listener = try client.pushes()
        try check(try await listener.next()?.topic == "swift/2")
        listener.done()
        try await client.unsubscribe(filter: "swift/#")
        try await client.shutdown()
        let error = try await refused { for try await _ in left {} }
        try check(error.isClosed, error)
    }

    func durable() async throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let identity = folder.appendingPathComponent("identity").path
        let first = try client(identityFile: identity)
        let pay = Request(path: unaryPath, message: text("pay"))
        try await first.submit(request: pay, key: "order-1", tag: Data("cart".utf8))
        try await first.shutdown()
        let second = try client(identityFile: identity)
        for try await outcome in second.outcomeSequence() {
            try check(outcome.key() == "order-1" && outcome.tag() == Data("cart".utf8))
            try check(try outcome.message().starts(with: text("pay")) && outcome.response().status == 200)
            try await second.acknowledge(key: "order-1")
            break
        }
        let error = try await refused { try await second.acknowledge(key: "order-1") }
        try check(error.argument == "key", error)
        try check(second.damagedRecords().isEmpty)
        try await second.shutdown()
    }

    func statesAndSignals() async throws {
        let client = try client()
        let states = Task {
            var seen: [LineState] = []
            for try await state in client.stateSequence() { seen.append(state) }
            return seen
        }
        _ = try await client.unary(Request(path: unaryPath, message: text("up")))
        try client.background()
        try client.lowPower(lowPower: true)
        try client.doze(dozing: false)
        try client.foreground()
        try client.networkChanged(network: Network(kind: .wifi, key: "home", metered: false))
        _ = try await client.unary(Request(path: unaryPath, message: text("moved")))
        try client.networkJoined(network: Network(kind: .cellular, metered: true))
        try client.setMetered(metered: nil)
        try client.reconnect()
        _ = try await client.unary(Request(path: unaryPath, message: text("joined")))
        for try await _ in client.qualitySequence() { break }
        try await client.shutdown()
        let seen = try await states.value
        try check(seen.contains { $0.isOnline } && seen.last?.isClosed == true, seen)
    }

    func strategies() async throws {
        let client = try Client(options: ClientOptions(
            endpoints: [edge], strategies: ["hedge.enabled=false", "short.after_min=2s"], rootsPem: roots
        ))
        _ = try await client.unary(Request(path: unaryPath, message: text("up")))
        try check(client.endpointList() == nil)
        try await client.shutdown()
        let error = try await refused {
            try Client(options: ClientOptions(endpoints: [edge], strategies: ["hedge.enabled=maybe"], rootsPem: roots))
        }
        try check(error.option == "strategies[0]", error)
    }

    func ownResolver() async throws {
        let port = edge.split(separator: ":").last!
        let client = try Client(options: ClientOptions(
            endpoints: ["localhost:\(port)"], ownResolver: true, rootsPem: roots
        ))
        let answering = Task {
            var asked: [String] = []
            for try await question in client.nameSequence() {
                asked.append(question.host())
                if asked.count == 1 {
                    question.fail(reason: "not yet")
                } else {
                    try question.answer(addresses: ["127.0.0.1"])
                }
            }
            return asked
        }
        _ = try await client.unary(Request(path: unaryPath, message: text("found")))
        try check(client.ticketCounts().damaged == 0)
        try await client.shutdown()
        let asked = try await answering.value
        try check(asked.count >= 2 && asked.allSatisfy { $0 == "localhost" }, asked)
    }

    func logs() async throws {
        let log = try logSequence(level: .debug)
        let client = try Client(options: ClientOptions(endpoints: ["127.0.0.1:1"], plaintext: true))
        for try await record in log {
            try check(!record.text.isEmpty && record.target.hasPrefix("towline"), record)
            break
        }
        try await client.shutdown()
        // A loop whose task is cancelled ends.
        let drained = Task { for try await _ in log {} }
        drained.cancel()
        try await drained.value
    }

    func misuse() async throws {
        var error = try await refused { try Client(options: ClientOptions(endpoints: [edge])) }
        try check(error.option == "roots_pem", error)
        let noPem = Data("no PEM".utf8)
        error = try await refused { try Client(options: ClientOptions(endpoints: [edge], rootsPem: noPem)) }
        try check(error.option == "roots_pem", error)
        error = try await refused { try Client(options: ClientOptions(endpoints: ["https://edge/"], rootsPem: roots)) }
        try check(error.option == "endpoints[0]", error)
        error = try await refused { try self.client(identityFile: "/no/such/folder/identity") }
        guard case let .Start(reason) = error, reason.contains("/no/such/folder") else { throw error }

        let client = try client()
        error = try await refused { try await client.call(Request(path: "edge.example/x")) }
        try check(error.argument == "path", error)
        error = try await refused { try await client.unary(Request(path: unaryPath, message: failing)) }
        guard case let .Grpc(code, _) = error, code == 5 else { throw error }
        error = try await refused { try await client.unary(Request(path: unaryPath, message: slow, deadline: 0.05)) }
        try check(error.kind == .deadlineExceeded && error.timeline!.elapsed >= 0.05, error)
        try await client.shutdown()
        try await client.shutdown()
        error = try await refused { try await client.call(Request(path: "/hello", method: "GET")) }
        try check(error.isClosed, error)
        error = try await refused { try client.foreground() }
        try check(error.isClosed, error)
        error = try await refused { for try await _ in client.pushSequence() {} }
        try check(error.isClosed, error)

        let open = try Client(options: ClientOptions(endpoints: [plain], plaintext: true))
        let secret = Request(path: "/hello", method: "GET", needsEncryption: true)
        error = try await refused { try await open.call(secret) }
        try check(error.kind == .encryptionRequired, error)
        try await open.shutdown()
    }

    func cancellation() async throws {
        let client = try client()
        _ = try await client.unary(Request(path: unaryPath, message: text("up")))
        let call = Task { try await client.unary(Request(path: unaryPath, message: slow)) }
        call.cancel()
        var error = try await refused { try await call.value }
        try check(error.kind == .cancelled, error)

        // One that waits already.
        let cancellation = Cancellation()
        async let waiting = client.unary(request: Request(path: unaryPath, message: slow), cancellation: cancellation)
        cancellation.cancel()
        do { _ = try await waiting } catch let refusal as TowlineError { error = refusal }
        try check(error.kind == .cancelled && cancellation.isCancelled(), error)

        // A loop that waits for what never comes.
        let pushes = Task {
            var count = 0
            for try await _ in client.pushSequence() { count += 1 }
            return count
        }
        pushes.cancel()
        try check(try await pushes.value == 0)

        let stream = try client.stream(request: Request(path: bidiPath))
        let messages = Task { for try await _ in stream.messages {} }
        messages.cancel()
        error = try await refused { try await messages.value }
        try check(error.kind == .cancelled, error)
        try await client.shutdown()
    }

    func panics() async throws {
        let error = try await refused { try await panicProbeLater() }
        guard case .Internal = error else { throw error }
        // The engine goes on.
        try await calls()
    }

    func release() async throws {
        var client: Client? = try client()
        let states = client!.states()
        // This loop is at work when its client goes.
        let sequence = client!.stateSequence().makeAsyncIterator()
        _ = try await client!.unary(Request(path: unaryPath, message: text("up")))
        client = nil
        while let state = try await states.next() { if state.isClosed { break } }
        while let state = try await sequence.next() { if state.isClosed { return } }
        throw Failed(description: "a released client stays open")
    }
}

@main
struct App {
    static func main() async throws {
        let arguments = CommandLine.arguments
        let roots = try Data(contentsOf: URL(fileURLWithPath: arguments[3]))
        let parts = Parts(edge: arguments[1], plain: arguments[2], roots: roots)
        let all: [(String, () async throws -> Void)] = [
            ("calls", parts.calls), ("streams", parts.streams), ("pushes", parts.pushes), ("durable", parts.durable),
            ("states and signals", parts.statesAndSignals), ("strategies", parts.strategies),
            ("own resolver", parts.ownResolver), ("logs", parts.logs), ("misuse", parts.misuse),
            ("cancellation", parts.cancellation), ("panics", parts.panics), ("release", parts.release),
        ]
        for (name, part) in all {
            let watch = Task.detached {
                try await Task.sleep(nanoseconds: 60_000_000_000)
                FileHandle.standardError.write(Data("\(name) hangs\n".utf8))
                exit(1)
            }
            do { try await part() } catch {
                print(name, error)
                exit(1)
            }
            watch.cancel()
            print("ok", name)
        }
    }
}
