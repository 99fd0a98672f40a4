// An iOS app: add this file and dev-ca.pem of `towline dev` to an app target that depends on the package Towline.

import Network
import SwiftUI
import Towline

@main
struct SampleApp: App {
    @Environment(\.scenePhase) private var phase
    @StateObject private var model = Model()

    var body: some Scene {
        WindowGroup { SampleView(model: model) }
            .onChange(of: phase) { phase in model.phaseChanged(to: phase) }
    }
}

struct SampleView: View {
    @ObservedObject var model: Model

    var body: some View {
        VStack(spacing: 16) {
            Text(model.state)
            Button("Call") { Task { await model.call() } }
            Text(model.said)
        }
        .padding()
        .task { await model.watchState() }
        .task { await model.watchPushes() }
    }
}

@MainActor
final class Model: ObservableObject {
    @Published var state = ""
    @Published var said = ""
    private let client: Client
    private let monitor = NWPathMonitor()

    init() {
        guard let file = Bundle.main.url(forResource: "dev-ca", withExtension: "pem"),
              let roots = try? Data(contentsOf: file) else { fatalError("dev-ca.pem is not in the app's bundle") }
        let folder = FileManager.default.urls(for: .applicationSupportDirectory, in: .userDomainMask)[0]
        try? FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        do {
            client = try Client(options: ClientOptions(
                endpoints: ["localhost:7443"],
                rootsPem: roots,
                identityFile: folder.appendingPathComponent("towline-identity").path,
                topics: ["greetings/#"],
                agent: "towline-sample/0.1.0"
            ))
        } catch {
            fatalError("\(error)")
        }
        monitor.pathUpdateHandler = { [client] path in try? client.networkChanged(network: path.network) }
        monitor.start(queue: .global())
    }

    func phaseChanged(to phase: ScenePhase) {
        switch phase {
        case .active: try? client.foreground()
        case .background: try? client.background()
        default: break
        }
    }

    func call() async {
        do {
            let answer = try await client.call(Request(path: "/hello", method: "GET", deadline: 10))
            let text = String(decoding: answer.body, as: UTF8.self)
            said = "\(answer.status) over \(answer.timeline.transport): \(text)"
        } catch let TowlineError.Rpc(kind, execution, _, _, reason, _) {
            said = "\(kind), \(execution): \(reason)"
        } catch {
            said = "\(error)"
        }
    }

    func watchState() async {
        do { for try await next in client.stateSequence() { state = "\(next)" } } catch { state = "\(error)" }
    }

    func watchPushes() async {
        do {
            for try await push in client.pushSequence() {
                said = "\(push.topic): \(String(decoding: push.payload, as: UTF8.self))"
            }
        } catch {
            said = "\(error)"
        }
    }
}

private extension NWPath {
    var network: Towline.Network {
        guard status == .satisfied else { return Towline.Network(kind: .offline) }
        if usesInterfaceType(.wifi) { return Towline.Network(kind: .wifi, metered: isExpensive) }
        if usesInterfaceType(.cellular) { return Towline.Network(kind: .cellular, metered: isExpensive) }
        if usesInterfaceType(.wiredEthernet) { return Towline.Network(kind: .ethernet, metered: isExpensive) }
        return Towline.Network(kind: .unknown, metered: isExpensive)
    }
}
