package dev.towline.sample

import android.os.Bundle
import android.widget.Button
import android.widget.LinearLayout
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.lifecycle.Lifecycle
import androidx.lifecycle.lifecycleScope
import androidx.lifecycle.repeatOnLifecycle
import dev.towline.Request
import dev.towline.TowlineException
import dev.towline.body
import dev.towline.pushFlow
import dev.towline.stateFlow
import kotlinx.coroutines.launch
import java.time.Duration

class MainActivity : ComponentActivity() {
    private val client get() = (application as SampleApp).client

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        val state = TextView(this)
        val said = TextView(this)
        val button = Button(this).apply { text = "Call" }
        setContentView(
            LinearLayout(this).apply {
                orientation = LinearLayout.VERTICAL
                listOf(state, button, said).forEach(::addView)
            },
        )
        button.setOnClickListener { lifecycleScope.launch { said.text = call() } }
        lifecycleScope.launch {
            repeatOnLifecycle(Lifecycle.State.STARTED) {
                launch { client.stateFlow().collect { state.text = it.toString() } }
                launch { client.pushFlow().collect { said.text = "${it.topic}: ${it.payload.decodeToString()}" } }
            }
        }
    }

    private suspend fun call(): String = try {
        val answer = client.call(Request(path = "/hello", method = "GET", deadline = Duration.ofSeconds(10)))
        "${answer.status} over ${answer.timeline.transport} in ${answer.timeline.elapsed.toMillis()} ms: " +
            answer.body.decodeToString()
    } catch (error: TowlineException.Rpc) {
        "${error.kind}, ${error.execution}: ${error.reason}"
    } catch (error: TowlineException) {
        error.toString()
    }
}
