"""The frozen encoder: preprocessed images in, features (regions, channels) out.

The encoder is any network of a source up to any layer. The layer's map is averaged to grid x grid regions.

B images, S input side, R = grid * grid regions, C channels.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.accel.fused_convolution import fuse_convolutions
from pipeline.device import engine, resolve_precision, single_threaded
from pipeline.encoders import images
from pipeline.encoders.model_encoder import find_model_file, load_model_encoder
from pipeline.encoders.nvimgcodec import check_nvimgcodec, nvimgcodec_version
from pipeline.encoders.registry import SOURCES, get_source
from pipeline.encoders.source import EncoderSource, LoadedModel, WeightsNotFetched, run_network
from pipeline.encoders.spec import EncoderSpec, sha256_of_tensors
from pipeline.errors import ArtefactError, NumericError, ParamsError
from pipeline.wording import shown_names

GPU_BATCH = 64
"""Images per forward pass on a GPU. The size is constant because a feature's last bits depend on it."""


class Encoder:
    """A network up to one layer, on one device.

    Made by `build_encoder` from params, or by `restore_encoder` from a spec and its tensors.
    """

    def __init__(self, spec: EncoderSpec, network: nn.Module, device: torch.device, *, resized: bool = False) -> None:
        self.spec = spec
        self._resized = resized
        self.device = device
        self.network = network
        """The source's network in float32, on the CPU: images (B, 3, S, S) to the layer's output."""
        self._source = get_source(spec.source)
        preprocessing = spec.preprocessing
        self._dtype = torch.bfloat16 if spec.precision == "bfloat16" else torch.float32
        with single_threaded():  # packed weights have a layout for the number of threads
            try:
                self._fast_network = fuse_convolutions(network, preprocessing.size, self._dtype, device)
            except RuntimeError:  # often an image size that the network refuses; the plain network says so
                run_network(network, torch.zeros(1, 3, preprocessing.size, preprocessing.size), spec.name)
                raise
        self._mean = torch.tensor(preprocessing.mean, device=device).view(3, 1, 1) * 255
        self._std = torch.tensor(preprocessing.std, device=device).view(3, 1, 1) * 255
        blank = torch.zeros(1, 3, preprocessing.size, preprocessing.size, dtype=self._dtype, device=device)
        output = run_network(self._fast_network, blank, spec.name)
        if not isinstance(output, Tensor):
            raise ParamsError(f"params.encoder.layer: {spec.layer} of {spec.name} outputs {type(output).__name__}")
        _, self.regions, self.channels = self._pool(output).shape
        self.map_size = tuple(self._source.feature_map(output, spec.layer).shape[2:])
        """Height and width of the layer's map; empty for a vector."""

    @property
    def engine(self) -> str:
        """Libraries and processor. Together with the spec they determine a feature's last bits."""
        decoder = nvimgcodec_version() if self.spec.preprocessing.jpeg_decoder == "nvimgcodec" else ""
        return ", ".join(filter(None, [engine(self.device), images.LIBRARY, decoder, self._source.library]))

    def tensors_to_embed(self) -> dict[str, Tensor]:
        """Return the tensors that a model file needs to rebuild the encoder: none where the source publishes them.

        Published tensors that were interpolated would differ in their last bits on another kind of processor.
        """
        if self.spec.weights != "file" and not self.spec.has_random_weights and not self._resized:
            return {}
        return {name: tensor.cpu().contiguous() for name, tensor in self.network.state_dict().items()}

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Encode preprocessed images (B, S, S, 3), 0 to 255, to features (B, R, C). They are normalized on the device.

        A feature's last bits depend on the batch size, and an image must get the same feature alone (`predict`) and
        among others (`extract`). A CPU therefore encodes one image at a time, which packed weights make nearly as fast
        as a batch; a GPU pads to batches of `GPU_BATCH`. Raises `NumericError` for features that are not finite.
        """
        count = len(pixels)
        if self.device.type == "cpu":
            return np.concatenate([self._encode_batch(pixels[number : number + 1]) for number in range(count)])
        padded = np.zeros((-(-count // GPU_BATCH) * GPU_BATCH, *pixels.shape[1:]), np.uint8)
        padded[:count] = pixels
        starts = range(0, len(padded), GPU_BATCH)
        return np.concatenate([self._encode_batch(padded[start : start + GPU_BATCH]) for start in starts])[:count]

    def _encode_batch(self, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        features: NDArray[np.float16] = self.forward(torch.from_numpy(pixels).to(self.device)).cpu().numpy()
        return self.check_finite(features)

    @torch.inference_mode()
    def forward(self, pixels: Tensor) -> Tensor:
        """Return features (B, R, C) in float16 of uint8 images (B, S, S, 3), both on the encoder's device."""
        deterministic = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with deterministic if self.device.type == "cuda" else nullcontext():
            batch = (pixels.permute(0, 3, 1, 2) - self._mean) / self._std  # (B, 3, S, S)
            batch = batch.to(self._dtype).contiguous(memory_format=torch.channels_last)
            return self._pool(self._fast_network(batch)).to(torch.float16)

    def check_finite(self, features: NDArray[np.float16]) -> NDArray[np.float16]:
        """Return `features` unchanged. Raises `NumericError` when a value is not finite."""
        total = torch.from_numpy(features).sum(dtype=torch.float32)  # six times as fast as np.isfinite of each value
        if not total.isfinite():
            raise NumericError(
                f"{self.spec.name} at {self.spec.layer} outputs values beyond float16's range; choose another layer"
            )
        return features

    def _pool(self, output: Tensor) -> Tensor:
        """Average a layer's output to regions (B, R, C) in float32."""
        spec = self.spec
        features = self._source.feature_map(output.float(), spec.layer)
        if features.dim() == 2:  # (B, C)
            if spec.grid != 1:
                raise ParamsError(
                    f"params.encoder.grid: {spec.layer} of {spec.name} outputs one vector; must be 1, got {spec.grid}"
                )
            return features.unsqueeze(1)
        pooled = nn.functional.adaptive_avg_pool2d(features, spec.grid)  # (B, C, grid, grid)
        return pooled.flatten(2).transpose(1, 2)


def build_encoder(
    *,
    name: str,
    weights: str,
    layer: str,
    grid: int,
    image_size: int | str,
    fit: str,
    precision: str,
    seed: int,
    device: torch.device,
    source: str = "torchvision",
    truncated_jpegs: str = "skip",
    jpeg_decoder: Literal["pillow", "nvimgcodec"] = "pillow",
) -> Encoder:
    """Build the encoder that `params.encoder` describes.

    Raises `ParamsError` naming the parameter and its choices, `NumericError` for weights that are not finite.
    """
    precision = resolve_precision(precision, device, "params.encoder.precision")
    if jpeg_decoder == "nvimgcodec":
        check_nvimgcodec(device)
    library = get_source(source)
    size = image_size if isinstance(image_size, int) else None
    if model_file := find_model_file(weights):
        loaded, layer = load_model_encoder(
            model_file, library, source_name=source, name=name, weights=weights, layer=layer, size=size
        )
        network = loaded.model
    else:
        loaded = _load(library, name, weights, size, seed)
        network, layer = _cut(library, loaded, name, weights, layer)
    if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
        raise NumericError(f"params.encoder.weights: {weights} holds values that are not finite; give other weights")
    size = loaded.image_size
    trained = loaded.preprocessing
    shorter_side = None
    if fit == "crop" and trained.shorter_side is not None:
        shorter_side = round(size * trained.shorter_side / trained.size)
    spec = EncoderSpec(
        name=name,
        weights=loaded.weights,
        weights_sha256=sha256_of_tensors(network.state_dict()),
        layer=layer,
        grid=grid,
        preprocessing=replace(
            trained,
            size=size,
            shorter_side=shorter_side,
            fill_truncated=truncated_jpegs == "fill",
            jpeg_decoder=jpeg_decoder,
        ),
        precision=precision,
        source=source,
    )
    encoder = Encoder(spec, network, device, resized=loaded.resized)
    if encoder.map_size and grid > min(encoder.map_size):
        height, width = encoder.map_size
        raise ParamsError(
            f"params.encoder.grid: must be at most {min(height, width)}, got {grid}: {layer} of {name} outputs a map "
            f"of {height} x {width} for images of {size} pixels; lower it, or raise params.encoder.image_size"
        )
    return encoder


def _load(source: EncoderSource, name: str, weights: str, size: int | None, seed: int) -> LoadedModel:
    try:
        return source.load(name, weights, size, seed)
    except WeightsNotFetched as error:
        raise ParamsError(
            f"params.encoder.weights: {error}; download the file elsewhere and give its path here"
        ) from error


def _cut(source: EncoderSource, loaded: LoadedModel, name: str, weights: str, layer: str) -> tuple[nn.Module, str]:
    """The network up to `layer`, and the layer's name. Raises `ParamsError` when weights are missing."""
    if layer == "auto":
        layer = source.default_layer(loaded, name)
    absent = {
        tensor.data_ptr(): key for key, tensor in loaded.model.state_dict().items() if key in loaded.missing
    }  # by address, because a part of a network may name its tensors differently
    network = source.cut_at(loaded.model, layer, name)
    if missing := [
        absent[tensor.data_ptr()] for tensor in network.state_dict().values() if tensor.data_ptr() in absent
    ]:
        raise ParamsError(
            f"params.encoder.weights: {weights} lacks {len(missing)} of the weights that {name} up to {layer} needs, "
            f"or has them in another shape: {shown_names(missing, 3)}"
        )
    return network, layer


def restore_encoder(spec: EncoderSpec, tensors: Mapping[str, Tensor] | None, device: torch.device) -> Encoder:
    """Rebuild the encoder of a spec from `tensors`, or from the source's published weights where there are none.

    Raises `ArtefactError` when the weights differ from those that made the features, when they cannot be downloaded,
    and for imported features.
    """
    if spec.imported:
        raise ArtefactError(
            f"trained on features of {spec.name}, which another program computed, so that no image can be encoded "
            "here; caption rows of a feature file: `captioner predict --features FILE IDS`"
        )
    if spec.source not in SOURCES:
        raise ArtefactError(
            f"the encoder source {spec.source[:80]!r} is unknown to this version; update, or train again"
        )
    source, size = get_source(spec.source), spec.preprocessing.size
    if tensors:
        network = source.empty_network(spec.name, spec.layer, size)
        try:
            network.load_state_dict(dict(tensors), assign=True)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise ArtefactError(f"the weights in the model file are not those of {spec.name}: {reason}") from error
    else:
        try:
            model = source.load(spec.name, spec.weights, size, 0).model
        except WeightsNotFetched as error:
            raise ArtefactError(
                f"the model file does not contain its encoder's weights, and {error}; on a machine with a network, "
                "`captioner export --self-contained FILE` writes a model file that does"
            ) from error
        network = source.cut_at(model, spec.layer, spec.name)
    found = sha256_of_tensors(network.state_dict())
    if found != spec.weights_sha256:
        raise ArtefactError(
            f"the weights of {spec.name} ({spec.weights}) have sha256 {found[:12]}, the features were made with "
            f"{spec.weights_sha256[:12]}; train again, or use the original weights"
        )
    return Encoder(spec, network, device)
