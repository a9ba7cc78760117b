from __future__ import annotations

import json
import socket
import threading
import warnings
from datetime import timedelta

import pytest
from torch.distributed import PrefixStore, TCPStore

from trainer.ranks import peers
from trainer.ranks.launch import Launch
from trainer.ranks.peers import ADDRESS, Peers

# Connections close when their process ends.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
WAIT = 60.0


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> PrefixStore:
    """The launcher's, on this host under its own name."""
    held = TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=WAIT))
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(held.port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    return PrefixStore("start-0", held)


@pytest.mark.parametrize(("local_ranks", "address", "early"), [(2, "127.0.0.1", True), (1, "", False)])
def test_a_request_to_stop_arrives_whenever_and_wherever_a_rank_connects(
    store: PrefixStore, local_ranks: int, address: str, early: bool
) -> None:
    """Where a host's own name is a loopback address, other nodes would reach themselves there."""
    asked = threading.Event()
    main, other = (Peers(Launch(rank, 2, local_ranks, True, "no"), print, asked.set) for rank in (0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        main.__enter__()
        if early:
            main.request_stop()
        other.__enter__()
    main.request_stop()
    assert json.loads(store.get(ADDRESS))[0] == address and asked.wait(WAIT)
    for rank in (main, other):
        rank.__exit__(None)


@pytest.mark.usefixtures("store")
def test_ranks_do_without_a_rank_0_that_cannot_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> socket.socket:
        raise OSError("no more ports")

    monkeypatch.setattr(socket, "create_server", fail)
    monkeypatch.setattr(peers, "CONNECT_TIMEOUT", timedelta(seconds=1))
    for rank in (0, 1):
        with (
            pytest.warns(UserWarning, match="A lost rank may go unnoticed"),
            Peers(Launch(rank, 2, 2, True, "no"), print, print),
        ):
            pass
