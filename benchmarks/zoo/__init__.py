"""Architectures whose trained weights no package carries: built layer for layer, with seeded random weights.

Each is written as an exporter writes it (the idioms of shapes, masks and normalisations included), at full size for
benchmarks and reduced (the same structure, narrower and shallower, smaller inputs) for tests:

    network = zoo.NETWORKS["bert"]
    model = network.build()                  # or network.build(reduced=True)
    feeds = network.feeds(model)             # seeded random inputs; free dimensions as in network.dims
    gpucompile.compile(model, dims=network.dims)

    python -m benchmarks architectures --help    compiles, runs and compares them
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from benchmarks.zoo import classifiers, decoders, diffusion, encoders, images, seq2seq
from benchmarks.zoo.writer import Array, random_feeds


@dataclass(frozen=True)
class Network:
    """One architecture: what builds it, with which numbers, and what its free dimensions are bound to."""

    make: Callable[..., onnx.ModelProto]
    full: Mapping[str, Any]
    small: Mapping[str, Any]
    dims: Mapping[str, int] = field(default_factory=dict)
    pixels: bool = False  # images with levels 0..255

    def build(self, reduced: bool = False) -> onnx.ModelProto:
        """The model, the same in every run."""
        return self.make(**(self.small if reduced else self.full))

    def feeds(self, model: onnx.ModelProto, reduced: bool = False, seed: int = 0) -> dict[str, Array]:
        """Seeded random inputs by name: normal images and states, ids below the vocabulary's size, masks."""
        vocabulary = (self.small if reduced else self.full).get("vocabulary", 2)
        feeds = random_feeds(model, self.dims, seed, vocabulary)
        if self.pixels:
            feeds = {n: np.clip(64 * x + 128, 0, 255).astype(np.float32) for n, x in feeds.items()}
        for name, x in feeds.items():
            if name == "position_ids":
                feeds[name] = np.broadcast_to(np.arange(x.shape[1]) + self.dims["past_sequence"], x.shape).copy()
            elif name == "timestep":
                feeds[name] = np.full(x.shape, 500.0, np.float32)
        return feeds


SQUEEZES = (16, 16, 32, 32, 48, 48, 64, 64)
ONE = {"batch": 1}
TEXT = {"batch": 1, "sequence": 128}
STEP = {"batch": 1, "sequence": 1, "past_sequence": 31}

NETWORKS: dict[str, Network] = {
    "mobilenet_v2": Network(
        classifiers.mobilenet_v2,
        {"side": 224, "width": 1.0, "repeats": (1, 2, 3, 4, 3, 3, 1), "classes": 1000},
        {"side": 64, "width": 0.25, "repeats": (1, 2, 2, 1, 1, 1, 1), "classes": 50},
        ONE,
    ),
    "resnet50_v1": Network(
        classifiers.resnet50_v1,
        {"side": 224, "width": 64, "blocks": (3, 4, 6, 3), "classes": 1000},
        {"side": 32, "width": 8, "blocks": (2, 2), "classes": 50},
        ONE,
    ),
    "resnet50_v2": Network(
        classifiers.resnet50_v2,
        {"side": 224, "width": 64, "blocks": (3, 4, 6, 3), "classes": 1000},
        {"side": 32, "width": 8, "blocks": (2, 2), "classes": 50},
        ONE,
    ),
    "efficientnet_lite4": Network(
        classifiers.efficientnet_lite4,
        {"side": 224, "width": 1.4, "depth": 1.8, "classes": 1000},
        {"side": 64, "width": 0.25, "depth": 0.5, "classes": 50},
        ONE,
    ),
    "densenet121": Network(
        classifiers.densenet121,
        {"side": 224, "growth": 32, "blocks": (6, 12, 24, 16), "classes": 1000},
        {"side": 32, "growth": 4, "blocks": (2, 2), "classes": 50},
        ONE,
    ),
    "squeezenet_1_0": Network(
        classifiers.squeezenet,
        {"version": "1.0", "side": 224, "squeezes": SQUEEZES, "classes": 1000},
        {"version": "1.0", "side": 80, "squeezes": (4,) * 8, "classes": 50},
    ),
    "squeezenet_1_1": Network(
        classifiers.squeezenet,
        {"version": "1.1", "side": 224, "squeezes": SQUEEZES, "classes": 1000},
        {"version": "1.1", "side": 64, "squeezes": (4,) * 8, "classes": 50},
    ),
    "ferplus": Network(
        classifiers.ferplus,
        {"side": 64, "width": 1.0, "hidden": 1024},
        {"side": 32, "width": 0.125, "hidden": 32},
        pixels=True,
    ),
    "tiny_yolo_v2": Network(
        images.tiny_yolo_v2, {"side": 416, "width": 1.0}, {"side": 96, "width": 0.125}, ONE, pixels=True
    ),
    "deeplab_v3": Network(
        images.deeplab_v3,
        {"side": 520, "width": 64, "blocks": (3, 4, 6, 3), "aspp": 256, "classes": 21},
        {"side": 64, "width": 4, "blocks": (1, 1, 1, 1), "aspp": 8, "classes": 5},
        ONE,
    ),
    "fast_neural_style": Network(
        images.fast_neural_style, {"side": 224, "width": 32, "residuals": 5}, {"side": 32, "width": 4, "residuals": 1}
    ),
    "sd15_unet_block": Network(
        diffusion.unet_block,
        {"side": 64, "channels": 320, "heads": 8, "context": 768, "text": 77, "layers": 2},
        {"side": 8, "channels": 32, "heads": 4, "context": 24, "text": 7, "layers": 1, "groups": 8},
        {"batch": 2},
    ),
    "sd15_vae_decoder": Network(
        diffusion.vae_decoder,
        {"side": 64, "widths": (512, 512, 256, 128), "layers": 3},
        {"side": 8, "widths": (16, 8), "layers": 1, "groups": 4},
        ONE,
    ),
    "sam_encoder": Network(
        encoders.sam_encoder,
        {"side": 1024, "patch": 16, "layers": 12, "channels": 768, "heads": 12, "window": 14, "every": 3, "out": 256},
        {"side": 80, "patch": 8, "layers": 3, "channels": 32, "heads": 2, "window": 4, "every": 3, "out": 16},
    ),
    "whisper_encoder": Network(
        seq2seq.whisper_encoder,
        {"mels": 80, "frames": 3000, "layers": 4, "channels": 384, "heads": 6},
        {"mels": 16, "frames": 60, "layers": 2, "channels": 48, "heads": 3},
        ONE,
    ),
    "whisper_decoder": Network(
        seq2seq.whisper_decoder,
        {"layers": 4, "channels": 384, "heads": 6, "vocabulary": 51865, "length": 448},
        {"layers": 2, "channels": 48, "heads": 3, "vocabulary": 200, "length": 64},
        {**STEP, "encoder_sequence": 1500},
    ),
    "t5_encoder": Network(
        seq2seq.t5_encoder,
        {"layers": 6, "channels": 512, "heads": 8, "head": 64, "inner": 2048, "vocabulary": 32128},
        {"layers": 2, "channels": 48, "heads": 3, "head": 16, "inner": 96, "vocabulary": 200},
        {"batch": 2, "sequence": 64},
    ),
    "t5_decoder": Network(
        seq2seq.t5_decoder,
        {"layers": 6, "channels": 512, "heads": 8, "head": 64, "inner": 2048, "vocabulary": 32128},
        {"layers": 2, "channels": 48, "heads": 3, "head": 16, "inner": 96, "vocabulary": 200},
        {"batch": 2, "past_sequence": 31, "encoder_sequence": 64},
    ),
    "m2m100_encoder_block": Network(
        seq2seq.m2m100_encoder_block,
        {"channels": 1024, "heads": 16, "inner": 4096, "vocabulary": 128112, "length": 1024},
        {"channels": 32, "heads": 2, "inner": 96, "vocabulary": 200, "length": 64},
        {"batch": 2, "sequence": 48},
    ),
    "m2m100_decoder_block": Network(
        seq2seq.m2m100_decoder_block,
        {"channels": 1024, "heads": 16, "inner": 4096},
        {"channels": 32, "heads": 2, "inner": 96},
        {"batch": 2, "sequence": 3, "past_sequence": 13, "encoder_sequence": 48},
    ),
    "bert": Network(
        encoders.bert,
        {"layers": 12, "channels": 768, "heads": 12, "vocabulary": 30522, "length": 512, "opset": 14},
        {"layers": 2, "channels": 48, "heads": 3, "vocabulary": 200, "length": 128, "opset": 14},
        TEXT,
    ),
    "distilbert": Network(
        encoders.distilbert,
        {"layers": 6, "channels": 768, "heads": 12, "vocabulary": 30522, "length": 512},
        {"layers": 2, "channels": 48, "heads": 3, "vocabulary": 200, "length": 128},
        {"batch": 2, "sequence": 64},
    ),
    "vit": Network(
        encoders.vit,
        {"side": 224, "patch": 16, "layers": 12, "channels": 768, "heads": 12, "classes": 1000},
        {"side": 48, "patch": 16, "layers": 2, "channels": 48, "heads": 3, "classes": 50},
        ONE,
    ),
    "clip": Network(
        encoders.clip,
        {
            "side": 224, "patch": 32, "layers": 12, "channels": 768, "heads": 12, "text_channels": 512, "text_heads": 8,
            "vocabulary": 49408, "length": 77, "shared": 512,
        },
        {
            "side": 64, "patch": 16, "layers": 2, "channels": 48, "heads": 3, "text_channels": 32, "text_heads": 2,
            "vocabulary": 200, "length": 77, "shared": 32,
        },
        {"images": 1, "texts": 2, "sequence": 77},
    ),
    "gpt2": Network(
        decoders.gpt2,
        {"layers": 12, "channels": 768, "heads": 12, "vocabulary": 50257, "length": 1024},
        {"layers": 2, "channels": 48, "heads": 3, "vocabulary": 200, "length": 64},
        {"batch": 1, "sequence": 4, "past_sequence": 28},
    ),
    "gpt2_with_positions": Network(
        decoders.gpt2,
        {"layers": 12, "channels": 768, "heads": 12, "vocabulary": 50257, "length": 1024, "with_positions": True},
        {"layers": 2, "channels": 48, "heads": 3, "vocabulary": 200, "length": 64, "with_positions": True},
        {"batch": 1, "sequence": 1, "past_sequence": 31, "past_sequence + sequence": 32},
    ),
    "llama": Network(
        decoders.llama,
        {"layers": 4, "channels": 1024, "heads": 16, "groups": 4, "inner": 4096, "vocabulary": 32000, "theta": 5e5},
        {"layers": 2, "channels": 64, "heads": 4, "groups": 2, "inner": 96, "vocabulary": 200, "theta": 5e5},
        {"batch": 1, "sequence": 1, "past_sequence": 31, "past_sequence + sequence": 32},
    ),
    "llama_block": Network(
        decoders.llama_block,
        {"channels": 2048, "heads": 32, "groups": 8, "inner": 8192, "theta": 5e5},
        {"channels": 64, "heads": 4, "groups": 2, "inner": 96, "theta": 5e5},
        {"batch": 2, "sequence": 4, "past_sequence": 28, "total_sequence": 32},
    ),
}  # fmt: skip
