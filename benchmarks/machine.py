"""The machine: device, names and versions, and the memory that a call needs."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys

import keras

BACKEND = keras.backend.backend()
HERE = pathlib.Path(__file__).parent

# The environment in which freed memory leaves the process: glibc maps each buffer of 64 KiB or more
# for itself, and tensorflow does without oneDNN, which keeps a pool.
EVERY_BUFFER_APART = {
    "MALLOC_MMAP_MAX_": "65536",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}

# The environment in which glibc keeps freed memory in the process. By default it gives some back,
# as chance has it, and the kernel must clear each page again: up to two thirds of a training step.
KEPT_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34)}


def keep_memory():
    """Starts the program again in the environment `KEPT_MEMORY`, unless it runs there."""
    if not KEPT_MEMORY.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEPT_MEMORY})


def device():
    """`"gpu"` if the backend sees one, else `"cpu"`."""
    if BACKEND == "jax":
        import jax

        return "cpu" if jax.default_backend() == "cpu" else "gpu"
    if BACKEND == "torch":
        import torch

        return "gpu" if torch.cuda.is_available() else "cpu"
    import tensorflow as tf

    return "gpu" if tf.config.list_physical_devices("GPU") else "cpu"


def device_name():
    """What the backend, or Linux, calls the device."""
    if device() == "cpu":
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"
    if BACKEND == "jax":
        import jax

        return jax.devices()[0].device_kind
    if BACKEND == "torch":
        import torch

        return torch.cuda.get_device_name()
    import tensorflow as tf

    return tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])[
        "device_name"
    ]


def commit():
    """The commit that is measured; "-dirty" if files differ from it, results aside."""

    def git(*words):
        return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True).stdout

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "..", ":!results")
    return git("rev-parse", "--short", "HEAD").strip() + ("-dirty" if changed else "")


def description():
    """Device, system and versions."""
    versions = {
        name: importlib.metadata.version(name) for name in ("keras-unpatchify", "keras", BACKEND)
    }
    return {
        "device": device(),
        "device_name": device_name(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": versions,
        "commit": commit(),
    }


def same_precision():
    """Lets every product on a GPU round its factors alike.

    Unless it is told, torch does so for convolutions only.
    """
    if BACKEND == "torch":
        import torch

        torch.set_float32_matmul_precision("high")


def peak_bytes(forward):
    """Bytes at the peak of a call of `forward`, its output included, above those in use before.

    On a CPU it is the peak of the process's resident memory, which Linux resets before the call.
    The process must have been started with `EVERY_BUFFER_APART`, or memory that was used earlier
    hides the peak. On a GPU it is the peak of the backend's allocator. A first call keeps what is
    loaded and compiled once out of the sum.
    """
    used, peak, reset = {"cpu": _cpu_memory, "gpu": _gpu_memory}[device()]()
    forward()
    reset()
    before = used()
    result = forward()
    after = peak()
    del result
    return after - before


def pool_growth(layer, x):
    """Bytes by which the first call of a TensorFlow layer makes the process grow.

    This is with oneDNN, as TensorFlow comes. What a call needed stays in a pool, so that a process
    can tell it of one call only. A call with one example goes before, to load what is loaded once;
    what it needs is not counted.
    """
    import tensorflow as tf

    forward = tf.function(layer, input_signature=[tf.TensorSpec((None, *x.shape[1:]))])
    forward(x[:1])
    used, peak, reset = _cpu_memory()
    reset()
    before = used()
    forward(x)
    return peak() - before


def jax_peak_bytes(forward, weights, x):
    """Bytes of the output and of all that is between, as the compiler lays them out."""
    import jax

    analysis = jax.jit(forward).lower(weights, x).compile().memory_analysis()
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes


def _cpu_memory():
    def reset():
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")

    return lambda: _status("VmRSS"), lambda: _status("VmHWM"), reset


def _gpu_memory():
    if BACKEND == "torch":
        from torch import cuda

        return cuda.memory_allocated, cuda.max_memory_allocated, cuda.reset_peak_memory_stats
    from tensorflow.config import experimental as memory

    return (
        lambda: memory.get_memory_info("GPU:0")["current"],
        lambda: memory.get_memory_info("GPU:0")["peak"],
        lambda: memory.reset_memory_stats("GPU:0"),
    )


def _status(key):
    with open("/proc/self/status") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith(key))
