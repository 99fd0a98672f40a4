"""What the sample tells its client of default routes: networks.py FOLDER, where sample.py is."""

import sys

sys.path.append(sys.argv[1])

from sample import NetworkWatch  # noqa: E402


class Client:
    def __init__(self):
        self.told = []

    def network_changed(self, network):
        self.told.append(("changed", network.key))

    def network_joined(self, network):
        self.told.append(("joined", network.key))


client = Client()
watch = NetworkWatch(client)
for routes in (["wwan0"], ["wwan0"], ["wlan0", "wwan0"], ["wlan0"], ["wwan0"], [], ["wlan0"]):
    watch.routes_are(routes)
assert client.told == [
    ("changed", "wwan0"),
    ("joined", "wlan0"),  # while wwan0 has its route
    ("changed", "wwan0"),
    ("changed", ""),  # there is none
    ("changed", "wlan0"),
], client.told
