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
    private let watch: NetworkWatch

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
        watch = NetworkWatch(client: client)
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
            let transport = answer.timeline.transport.map { "\($0)" } ?? "nothing"
            said = "\(answer.status) over \(transport): \(text)"
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

/// Tells the client what network apps are to use. The one before may still be there: cellular is when Wi-Fi comes, and
/// calls go on over it until the client has found Wi-Fi to be good.
@MainActor
final class NetworkWatch {
    private let client: Client
    private let monitor = NWPathMonitor()
    private var kind: NWInterface.InterfaceType?
    private var told: Towline.Network?

    init(client: Client) {
        self.client = client
        monitor.pathUpdateHandler = { [weak self] path in
            MainActor.assumeIsolated { self?.changed(to: path) }
        }
        monitor.start(queue: .main)
    }

    private func changed(to path: NWPath) {
        let before = kind
        kind = path.kind
        let network = path.network
        // Paths change with every address: what the client knows already is not told again.
        guard network != told else { return }
        told = network
        let joins = before != kind && path.availableInterfaces.contains { $0.type == before }
        if joins { try? client.networkJoined(network: network) } else { try? client.networkChanged(network: network) }
    }
}

private extension NWPath {
    /// Through what it leads; none where it leads nowhere.
    var kind: NWInterface.InterfaceType? {
        guard status == .satisfied else { return nil }
        return [.wifi, .cellular, .wiredEthernet].first { usesInterfaceType($0) } ?? .other
    }

    var network: Towline.Network {
        switch kind {
        case nil: return Towline.Network(kind: .offline)
        case .wifi: return Towline.Network(kind: .wifi, metered: isExpensive)
        case .cellular: return Towline.Network(kind: .cellular, metered: isExpensive)
        case .wiredEthernet: return Towline.Network(kind: .ethernet, metered: isExpensive)
        default: return Towline.Network(kind: .unknown, metered: isExpensive)
        }
    }
}
