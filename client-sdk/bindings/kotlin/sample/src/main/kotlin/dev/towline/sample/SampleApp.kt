package dev.towline.sample

import android.app.Application
import android.net.ConnectivityManager
import android.net.NetworkCapabilities
import android.net.NetworkRequest
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
        NetworkWatch(client).register(getSystemService(ConnectivityManager::class.java))
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

/**
 * Tells the client which network is the default. The one before may still be up: Android keeps cellular for half a
 * minute when Wi-Fi has become the default, and calls go on over it until the client has found Wi-Fi to be good.
 *
 * All callbacks come on one thread of the system's.
 */
private class NetworkWatch(private val client: Client) {
    private val up = mutableSetOf<android.net.Network>()
    private var default: android.net.Network? = null
    private var told: Network? = null

    fun register(connectivity: ConnectivityManager) {
        val internet = NetworkRequest.Builder().addCapability(NetworkCapabilities.NET_CAPABILITY_INTERNET).build()
        connectivity.registerNetworkCallback(internet, Up())
        connectivity.registerDefaultNetworkCallback(Default())
    }

    /** Networks that are up, the default and others. */
    private inner class Up : ConnectivityManager.NetworkCallback() {
        override fun onAvailable(network: android.net.Network) {
            up += network
        }

        override fun onLost(network: android.net.Network) {
            up -= network
        }
    }

    private inner class Default : ConnectivityManager.NetworkCallback() {
        override fun onCapabilitiesChanged(network: android.net.Network, networkCapabilities: NetworkCapabilities) {
            val joins = default != network && default in up
            default = network
            val metered = !networkCapabilities.hasCapability(NetworkCapabilities.NET_CAPABILITY_NOT_METERED)
            // The handle tells networks apart until the device restarts.
            val key = network.networkHandle.toString()
            val next = Network(kind(networkCapabilities), key = key, metered = metered)
            tell(next) { if (joins) networkJoined(next) else networkChanged(next) }
        }

        override fun onLost(network: android.net.Network) {
            default = null
            val none = Network(NetworkKind.OFFLINE)
            tell(none) { networkChanged(none) }
        }
    }

    /** Capabilities change with every bar of signal: what the client knows already is not told again. */
    private fun tell(network: Network, how: Client.() -> Unit) {
        if (network == told) return
        told = network
        client.unlessClosed(how)
    }

    private fun kind(capabilities: NetworkCapabilities) = when {
        capabilities.hasTransport(NetworkCapabilities.TRANSPORT_WIFI) -> NetworkKind.WIFI
        capabilities.hasTransport(NetworkCapabilities.TRANSPORT_CELLULAR) -> NetworkKind.CELLULAR
        capabilities.hasTransport(NetworkCapabilities.TRANSPORT_ETHERNET) -> NetworkKind.ETHERNET
        else -> NetworkKind.UNKNOWN
    }
}
