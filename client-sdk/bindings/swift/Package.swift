// swift-tools-version: 5.9
import PackageDescription

let package = Package(
    name: "Towline",
    platforms: [.iOS(.v15), .macOS(.v12)],
    products: [.library(name: "Towline", targets: ["Towline"])],
    targets: [
        // build.sh makes both: the library for devices and simulators, and Sources/Towline/Towline.swift.
        .binaryTarget(name: "towlineFFI", path: "towlineFFI.xcframework"),
        .target(name: "Towline", dependencies: ["towlineFFI"]),
    ]
)
