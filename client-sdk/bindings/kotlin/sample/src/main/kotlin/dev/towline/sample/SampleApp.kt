package dev.towline.sample

import android.app.Application
import android.net.ConnectivityManager
import android.net.NetworkCapabilities
import android.net.NetworkRequest
import android.os.ParcelFileDescriptor
import androidx.lifecycle.DefaultLifecycleObserver
import androidx.lifecycle.LifecycleOwner
import androidx.lifecycle.ProcessLifecycleOwner
import dev.towline.BinderException
import dev.towline.Client
import dev.towline.ClientOptions
import dev.towline.NameQuestion
import dev.towline.Network
import dev.towline.NetworkKind
import dev.towline.SocketBinder
import dev.towline.TowlineException
import dev.towline.nameFlow
import java.io.File
import java.io.IOException
import java.net.InetAddress
import java.net.UnknownHostException
import java.util.concurrent.ConcurrentHashMap
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.launch

/** One client for the process, which is told what the system says of the network and of the app. */
class SampleApp : Application() {
    private val networks = Networks()

    /** As long as the process. */
    private val scope = CoroutineScope(SupervisorJob() + Dispatchers.IO)

    val client: Client by lazy {
        Client(
            ClientOptions(
                // The gateway of `towline dev` on the emulator's host; its CA is copied to assets/dev-ca.pem.
                endpoints = listOf("10.0.2.2:7443"),
                rootsPem = assets.open("dev-ca.pem").use { it.readBytes() },
                identityFile = File(filesDir, "towline-identity").path,
                topics = listOf("greetings/#"),
                agent = "towline-sample/0.1.0",
                ownResolver = true,
            ),
            Binder(networks),
        )
    }

    override fun onCreate() {
        super.onCreate()
        NetworkWatch(client, networks).register(getSystemService(ConnectivityManager::class.java))
        // One that takes long holds up none behind it.
        scope.launch { client.nameFlow().collect { name -> launch { name.use { it.lookUp(networks) } } } }
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

/** The system's networks by the keys that the client is told of them. */
private class Networks {
    private val up = ConcurrentHashMap<String, android.net.Network>()

    fun isUp(key: String, network: android.net.Network) {
        up[key] = network
    }

    fun isLost(key: String) {
        up.remove(key)
    }

    operator fun get(key: String): android.net.Network? = up[key]
}

/** Asks the resolver of the network that the name is for: names may differ by network, and one may resolve nothing. */
private fun NameQuestion.lookUp(networks: Networks) {
    val key = network().key
    try {
        val found = when {
            // Before the system has told of any network the default one will do.
            key.isEmpty() -> InetAddress.getAllByName(host())
            else -> networks[key]?.getAllByName(host()) ?: return fail("the network is gone")
        }
        answer(found.take(ADDRESSES_MAX).mapNotNull { it.hostAddress })
    } catch (error: UnknownHostException) {
        fail("$error")
    }
}

/** As many as an answer may have. */
private const val ADDRESSES_MAX = 16

/**
 * Binds each of the client's sockets to the network that it is for: when Wi-Fi has become the default, the sockets of calls
 * that go on over cellular are opened there still, and only those that find out whether Wi-Fi is any good are opened on it.
 */
private class Binder(private val networks: Networks) : SocketBinder {
    /** By a thread of the library's. */
    override fun bind(fd: Int, peer: String, network: Network) {
        // Before the system has told of any network the default one will do.
        if (network.key.isEmpty()) return
        val system = networks[network.key] ?: throw BinderException.Refused("the network is gone")
        try {
            ParcelFileDescriptor.fromFd(fd).use { system.bindSocket(it.fileDescriptor) }
        } catch (error: IOException) {
            throw BinderException.Refused("$error")
        }
    }
}

/**
 * Tells the client which network is the default. The one before may still be up: Android keeps cellular for half a
 * minute when Wi-Fi has become the default, and calls go on over it until the client has found Wi-Fi to be good.
 *
 * All callbacks come on one thread of the system's.
 */
private class NetworkWatch(private val client: Client, private val networks: Networks) {
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
            networks.isUp(network.key, network)
        }

        override fun onLost(network: android.net.Network) {
            up -= network
            networks.isLost(network.key)
        }
    }

    private inner class Default : ConnectivityManager.NetworkCallback() {
        override fun onCapabilitiesChanged(network: android.net.Network, networkCapabilities: NetworkCapabilities) {
            val joins = default != network && default in up
            default = network
            val metered = !networkCapabilities.hasCapability(NetworkCapabilities.NET_CAPABILITY_NOT_METERED)
            networks.isUp(network.key, network)
            val next = Network(kind(networkCapabilities), key = network.key, metered = metered)
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

    /** The handle tells networks apart until the device restarts. */
    private val android.net.Network.key get() = networkHandle.toString()

    private fun kind(capabilities: NetworkCapabilities) = when {
        capabilities.hasTransport(NetworkCapabilities.TRANSPORT_WIFI) -> NetworkKind.WIFI
        capabilities.hasTransport(NetworkCapabilities.TRANSPORT_CELLULAR) -> NetworkKind.CELLULAR
        capabilities.hasTransport(NetworkCapabilities.TRANSPORT_ETHERNET) -> NetworkKind.ETHERNET
        else -> NetworkKind.UNKNOWN
    }
}
