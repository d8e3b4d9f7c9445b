"""Several processes of one run, on JAX: how they join, and what if one of them dies."""

import contextlib
import os
import re
import secrets
import select
import socket
import sys
import threading
import traceback

from dcgan.common.console import STOPPED, UserError
from dcgan.networks.backend import keras
from dcgan.training import cards

PATIENCE = 300  # seconds until all processes must have come
NEAR = 10  # seconds to reach the first one, or to notice that one died

# The variables that say where the first process is, how many there are, which this is
GIVEN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

# Who starts several processes, and the variables that say how many and which. Slurm's
# are the step's: SLURM_NTASKS is the whole job's, in a shell of salloc too.
LAUNCHERS = {
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "Slurm": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
}

DIED = (
    "Another process of this run has ended; its own last line may say why. Start all "
    "of them again: the run goes on from its last checkpoint."
)


def join():
    """Join the other processes of this run, if there are any, before JAX is used.

    Raises UserError if they know too little of each other, or if the backend is not
    JAX. If they do not all come it ends this process, with one line.
    """
    try:
        launcher, options = found(os.environ, cards.count)
    except (ValueError, LookupError) as error:
        raise _did_not_join(error) from error
    if not launcher:
        return
    if keras.backend.backend() != "jax":
        raise UserError(
            f"{launcher} says that this is one of several processes, and training by "
            "several needs JAX: KERAS_BACKEND=jax"
        )
    import jax

    # JAX's own limit would end the process, with no error for Python to catch
    options["initialization_timeout"] = 2 * PATIENCE
    errors = []

    def initialize():
        try:
            jax.distributed.initialize(**options)
        except Exception as error:
            errors.append(error)

    print("Waiting for the other processes of this run.", flush=True)
    thread = threading.Thread(target=initialize, daemon=True)  # Ctrl-C stays possible
    thread.start()
    thread.join(PATIENCE)
    if thread.is_alive():  # at its usual end JAX would wait on, or speak for pages
        _leave(_did_not_join(f"not all came within {PATIENCE} seconds."), 1)
    if errors:
        raise _did_not_join(errors[0])


def _did_not_join(why):
    return UserError(
        f"The processes of this run did not join: {why} Each needs {GIVEN[0]} "
        f"(host:port of the first), {GIVEN[1]} and {GIVEN[2]}, or Slurm or Open MPI."
    )


def found(environment, count_cards):
    """Return who starts the processes of this run, and what to tell JAX; or ("", {}).

    count_cards() says how many GPUs this process sees. What is given is taken as it is;
    otherwise JAX finds the first process by itself. Raises ValueError if too little is
    given, or what is no number.
    """
    launcher = next(
        (name for name in LAUNCHERS if _count(environment, *LAUNCHERS[name]) > 1), ""
    )
    given = [environment.get(name) for name in GIVEN]
    if not any(given) and not launcher:
        several = "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        return ("Cloud TPU" if several else ""), {}
    address, count, place = given
    if launcher:  # what it knows need not be given
        known = [environment[name] for name in LAUNCHERS[launcher]]
        count, place = count or known[0], place or known[1]
    options = {}
    if any(given):
        for name, value in zip(GIVEN, (address, count, place), strict=True):
            if not value:
                raise ValueError(f"{name} is not set.")
        options = {"coordinator_address": address}
        options["cluster_detection_method"] = "deactivate"
    options |= {"num_processes": int(count), "process_id": int(place)}
    if launcher and not environment.get("JAX_LOCAL_DEVICE_IDS"):
        options["local_device_ids"] = own_cards(environment, launcher, count_cards)
    return launcher or GIVEN[0], options


def _count(environment, count, place):
    return int(environment.get(count) or 1) if place in environment else 1


def own_cards(environment, launcher, count_cards):
    """Return which of the GPUs that it sees a launched process takes; []: all of them.

    Those of a machine are shared evenly by its processes, unless Slurm has done so.
    (JAX by itself would always take one.)
    """
    if launcher == "Slurm":
        place = int(environment["SLURM_LOCALID"])
        tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "1")
        here = tasks_each(tasks)[int(environment.get("SLURM_NODEID", 0))]
        of_task = environment.get("SLURM_GPUS_PER_TASK")
        of_task = of_task or "gpu" in environment.get("SLURM_TRES_PER_TASK", "")
        if of_task or environment.get("SLURM_GPU_BIND", "none") != "none":
            return []
    else:
        place = int(environment["OMPI_COMM_WORLD_LOCAL_RANK"])
        here = int(environment["OMPI_COMM_WORLD_LOCAL_SIZE"])
    share = count_cards() // here if here > 1 else 0
    return list(range(place * share, (place + 1) * share))


def tasks_each(text):
    """Return each machine's tasks: in Slurm's words 2(x3),1 means 2, 2, 2, 1."""
    pairs = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, times in pairs for _ in range(int(times or 1))]


class Watch:
    """Ends this process, with one line, when another of the run dies.

    JAX would wait for it, for 100 seconds maybe, and then end this process from below
    Python, with pages of what lies there. So each process is connected with the first:
    the system cuts that when one of the two dies. One that ends well says so before.
    """

    def __init__(self, device, count):
        self.peers = _connect(device, count)
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self):
        left = list(self.peers)
        while left:
            for peer in select.select(left, [], [])[0]:
                if not _read(peer, 1):
                    _leave(f"\n{DIED}", 1)
                left.remove(peer)

    def end_well(self):
        """Let the others go on, or end, without this process."""
        for peer in self.peers:
            with contextlib.suppress(OSError):
                peer.sendall(b".")

    def give_up(self, error):
        """End this process, and with it all, by an error that the others do not have.

        (At its usual end JAX would wait minutes for them, and they for this process.)
        """
        if isinstance(error, UserError):
            _leave(error, 1)
        if isinstance(error, KeyboardInterrupt):
            _leave(STOPPED, 130)
        self.thread.join(NEAR)  # if another's death is behind it, this is the end
        _leave("".join(traceback.format_exception(error)), 1)


def _connect(device, count):
    """Return sockets: in the first process to all others, in each other to the first.

    None if there is one that cannot reach the first: then nobody watches.
    """
    server = socket.create_server(("", 0)) if device.is_first else None
    key = secrets.token_hex(16)  # whoever else knocks at the port does not know it
    mine = server and [socket.gethostname(), server.getsockname()[1], key]
    host, port, key = device.from_first(mine)
    peers = [] if server else _reach(host, port, key)
    if device.largest(int(not server and not peers)):
        return []
    while server and len(peers) < count - 1:  # all of them knock already
        peer = server.accept()[0]
        peer.settimeout(NEAR)
        if _read(peer, len(key)) == key.encode():
            peers.append(peer)
    for peer in peers:
        peer.settimeout(None)
    return peers


def _reach(host, port, key):
    """Return [the socket to the first process], or [] if there is no way to it."""
    given = os.environ.get(GIVEN[0], "").rpartition(":")[0].strip("[]")
    try:
        peer = socket.create_connection((given or host, port), NEAR)
        peer.sendall(key.encode())
    except OSError:
        return []
    return [peer]


def _read(peer, count):
    try:
        return peer.recv(count, socket.MSG_WAITALL)
    except OSError:  # it was cut, or is silent
        return b""


def _leave(message, code):
    """End this process at once."""
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)
