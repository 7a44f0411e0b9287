"""What the machine can do: precision, speed limits, memory."""

import logging
import platform
import resource
import sys

import torch

log = logging.getLogger("zoo")

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Autocast types by precision; fp32 has none."""

PEAK_TFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
    "V100": 125.0,
    "T4": 65.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
"""Dense 16-bit tensor-core TFLOP/s by a part of the device's name, from the vendor's data sheets; the longer name first."""


def usable_precision(wanted: str, device: torch.device) -> str:
    """`wanted`, or fp32 where the device has no units for it; then one line says so."""
    if wanted == "fp32" or device.type != "cpu":
        return wanted
    capabilities = torch.cpu.get_capabilities()
    if wanted == "bf16" and (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16")):
        return wanted
    log.info("This CPU has no %s units: training in fp32, which is faster here and more exact.", wanted)
    return "fp32"


def allow_tf32(allow: bool) -> None:
    """Let NVIDIA GPUs round the inputs of fp32 matrix products and convolutions to TF32 (10-bit mantissa)."""
    torch.backends.cuda.matmul.allow_tf32 = allow
    torch.backends.cudnn.allow_tf32 = allow


def hardware(device: torch.device, world: int = 1) -> str:
    """The devices in words, for logs and cards."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads ({platform.machine()})"
    return name if world == 1 else f"{world} x {name}"


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Largest possible FLOP/s of one device in 16-bit arithmetic, or None when it is not known."""
    if device.type != "cuda" or precision == "fp32":
        return None
    name = torch.cuda.get_device_name(device)
    return next((1e12 * value for part, value in PEAK_TFLOPS.items() if part in name), None)


def peak_memory(device: torch.device) -> float:
    """Largest memory so far, in GB: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
