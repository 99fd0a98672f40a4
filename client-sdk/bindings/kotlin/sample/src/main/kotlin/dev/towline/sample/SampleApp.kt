package dev.towline.sample

import android.app.Application
import android.net.ConnectivityManager
import android.net.NetworkCapabilities
import androidx.lifecycle.DefaultLifecycleObserver
import androidx.lifecycle.LifecycleOwner
import androidx.lifecycle.ProcessLifecycleOwner
import dev.towline.Client
import dev.towline.ClientOptions
import dev.towline.Network
import dev.towline.NetworkKind
import dev.towline.TowlineException
import java.io.File

/** One client for the process, which is told what the system says of the network and of the app. */
class SampleApp : Application() {
    val client: Client by lazy {
        Client(
            ClientOptions(
                // The gateway of `towline dev` on the emulator's host; its CA is copied to assets/dev-ca.pem.
                endpoints = listOf("10.0.2.2:7443"),
                rootsPem = assets.open("dev-ca.pem").use { it.readBytes() },
                identityFile = File(filesDir, "towline-identity").path,
                topics = listOf("greetings/#"),
                agent = "towline-sample/0.1.0",
            ),
        )
    }

    override fun onCreate() {
        super.onCreate()
        val connectivity = getSystemService(ConnectivityManager::class.java)
        connectivity.registerDefaultNetworkCallback(NetworkWatch(client))
        ProcessLifecycleOwner.get().lifecycle.addObserver(AppWatch(client))
    }
}

private class AppWatch(private val client: Client) : DefaultLifecycleObserver {
    override fun onStart(owner: LifecycleOwner) = client.unlessClosed { foreground() }

    override fun onStop(owner: LifecycleOwner) = client.unlessClosed { background() }
}

/** A gateway may refuse a client for good, which closes it; the state says so on the screen. */
private fun Client.unlessClosed(tell: Client.() -> Unit) = try {
    tell()
} catch (_: TowlineException.Closed) {
}

private class NetworkWatch(private val client: Client) : ConnectivityManager.NetworkCallback() {
    private var told: Network? = null

    override fun onCapabilitiesChanged(network: android.net.Network, capabilities: NetworkCapabilities) {
        val metered = !capabilities.hasCapability(NetworkCapabilities.NET_CAPABILITY_NOT_METERED)
        // The handle tells networks apart until the device restarts.
        tell(Network(kind(capabilities), key = network.networkHandle.toString(), metered = metered))
    }

    override fun onLost(network: android.net.Network) = tell(Network(NetworkKind.OFFLINE))

    /** Capabilities change with every bar of signal: what the client knows already is not told again. */
    private fun tell(network: Network) {
        if (network == told) return
        told = network
        client.unlessClosed { networkChanged(network) }
    }

    private fun kind(capabilities: NetworkCapabilities) = when {
        capabilities.hasTransport(NetworkCapabilities.TRANSPORT_WIFI) -> NetworkKind.WIFI
        capabilities.hasTransport(NetworkCapabilities.TRANSPORT_CELLULAR) -> NetworkKind.CELLULAR
        capabilities.hasTransport(NetworkCapabilities.TRANSPORT_ETHERNET) -> NetworkKind.ETHERNET
        else -> NetworkKind.UNKNOWN
    }
}
