"""The frozen network with its transform: a picture in, (regions, channels) out.

Any torchvision classification model, read at any layer. Whatever the layer gives (a map, NHWC or NCHW; a vector;
a transformer's tokens) becomes `grid` x `grid` regions of channels.

B pictures, S input side, R = grid * grid regions, C channels.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.accel.fused_convolution import fused
from pipeline.device import engine, resolve_precision, single_threaded
from pipeline.encoders import images
from pipeline.encoders.spec import EncoderSpec, Preprocessing, sha256_of_tensors
from pipeline.encoders.torchvision import (
    RANDOM_STRIDE,
    WeightsNotFetched,
    blank_network,
    forward,
    last_map,
    load,
    up_to,
)
from pipeline.errors import ArtefactError, NumericError, ParamsError

if TYPE_CHECKING:
    from PIL import Image

RANDOM_IMAGE_SIZE = 112
ACCELERATOR_BATCH = 64
"""Pictures per forward pass away from the CPU; always as many, since a row's last bits depend on the number."""


class Encoder:
    """A network up to one layer, on one device.

    Make one with `build` from params, or with `restore` from a spec and its tensors.
    """

    def __init__(self, spec: EncoderSpec, network: nn.Module, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        self.network = network
        """The network as torchvision has it, in float32."""
        transform = spec.transform
        self._dtype = torch.bfloat16 if spec.precision == "bfloat16" else torch.float32
        with single_threaded():  # weights are packed for the number of threads that will compute
            self._fast = fused(network, transform.size, self._dtype, device)
        self._mean = torch.tensor(transform.mean, device=device).view(3, 1, 1) * 255
        self._std = torch.tensor(transform.std, device=device).view(3, 1, 1) * 255
        with torch.inference_mode():
            blank = torch.zeros(1, 3, transform.size, transform.size, dtype=self._dtype, device=device)
            output = forward(self._fast, blank, spec.name)["layer"]
        self._channels_last = output.dim() == 4 and self._is_channels_last(output.shape)
        _, self.regions, self.channels = self._regions(output).shape

    @property
    def engine(self) -> str:
        """What a row's last bits depend on beside the spec."""
        return f"{engine(self.device)}, {images.LIBRARY}"

    def tensors_to_embed(self) -> dict[str, Tensor]:
        """What a model file needs so that the encoder can be rebuilt anywhere: nothing where torchvision has it."""
        if self.spec.weights != "file" and not self.spec.weights.startswith("random:"):
            return {}
        return {name: tensor.cpu().contiguous() for name, tensor in self.network.state_dict().items()}

    def prepare(self, picture: "Image.Image") -> NDArray[np.uint8]:
        """The network's input (S, S, 3) in bytes; normalisation happens on the device."""
        return images.fitted(picture, self.spec.transform)

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Rows (B, R, C) of pictures (B, S, S, 3). Raises `NumericError` for a row that is not finite.

        A row's last bits depend on the size of the batch, and a picture is to have the same row alone (`predict`) as
        among others (`extract`). So on a CPU the pictures go through one by one, which packed weights make nearly as
        fast; elsewhere in batches of one size, the last one filled up.
        """
        count = len(pixels)
        if self.device.type == "cpu":
            return np.concatenate([self._encode(pixels[place : place + 1]) for place in range(count)])
        filled = np.zeros((-(-count // ACCELERATOR_BATCH) * ACCELERATOR_BATCH, *pixels.shape[1:]), np.uint8)
        filled[:count] = pixels
        batches = range(0, len(filled), ACCELERATOR_BATCH)
        return np.concatenate([self._encode(filled[start : start + ACCELERATOR_BATCH]) for start in batches])[:count]

    def _encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        rows: NDArray[np.float16] = self.forward(torch.from_numpy(pixels).to(self.device)).cpu().numpy()
        return self.finite(rows)

    @torch.inference_mode()
    def forward(self, pixels: Tensor) -> Tensor:
        """Rows (B, R, C) in float16 of pictures (B, S, S, 3) in bytes, both on the encoder's device."""
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with exact if self.device.type == "cuda" else nullcontext():
            batch = pixels.permute(0, 3, 1, 2)
            batch = ((batch - self._mean) / self._std).to(self._dtype).contiguous(memory_format=torch.channels_last)
            output = forward(self._fast, batch, self.spec.name)["layer"]
            return self._regions(output).to(torch.float16)

    def finite(self, rows: NDArray[np.float16]) -> NDArray[np.float16]:
        """`rows` as they are. Raises `NumericError` when one of them is not finite."""
        if not np.isfinite(rows).all():
            raise NumericError(
                f"{self.spec.name} at {self.spec.layer} gives values that float16 cannot hold; choose another layer"
            )
        return rows

    def _regions(self, output: Tensor) -> Tensor:
        """(B, R, C) in float32 from a layer's output."""
        grid = self.spec.grid
        output = output.float()
        if output.dim() == 2:  # (B, C): a fully connected layer
            if grid != 1:
                raise ParamsError(
                    f"params.encoder.grid: {self.spec.layer} of {self.spec.name} gives one vector; must be 1, got {grid}"
                )
            return output.unsqueeze(1)
        if output.dim() == 3:  # (B, T, C): a transformer's tokens, the class token first
            side = int((output.shape[1] - 1) ** 0.5)
            if side * side + 1 != output.shape[1]:
                raise ParamsError(
                    f"params.encoder.layer: {self.spec.layer} gives {tuple(output.shape)}, not a square of tokens"
                )
            output = output[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        elif output.dim() == 4:
            if self._channels_last:
                output = output.permute(0, 3, 1, 2)
        else:
            raise ParamsError(f"params.encoder.layer: {self.spec.layer} gives {tuple(output.shape)}, not features")
        pooled = nn.functional.adaptive_avg_pool2d(output, grid)  # (B, C, grid, grid)
        return pooled.flatten(2).transpose(1, 2)

    def _is_channels_last(self, shape: torch.Size) -> bool:
        """Whether a map is (B, H, W, C), as Swin's are: for a square input, the two equal sides are H and W."""
        first, middle, last = shape[1:]
        if first == middle == last:
            raise ParamsError(
                f"params.encoder.layer: {self.spec.layer} gives {tuple(shape)}, where channels cannot be told from "
                "rows; choose a neighbouring layer or another image_size"
            )
        return first == middle


def build(
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
) -> Encoder:
    """The encoder that params ask for. Raises `ParamsError` naming what is wrong and what there is."""
    precision = resolve_precision(precision, device, "params.encoder.precision")
    try:
        model, weights_name, transform, lacking = load(name, weights, seed)
    except WeightsNotFetched as error:
        raise ParamsError(
            f"params.encoder.weights: {error}; download the file elsewhere and give its path here"
        ) from error
    pretrained = weights != "none"
    if isinstance(image_size, int):
        size = image_size
    else:  # transformers with learned positions accept one size only
        size = transform["size"] if pretrained else getattr(model, "image_size", RANDOM_IMAGE_SIZE)
    if layer == "auto":
        layer = last_map(model, name, size, None if pretrained else RANDOM_STRIDE)
    network = up_to(model, layer, name)
    if needed := [key for key in network.state_dict() if key in lacking]:
        raise ParamsError(
            f"params.encoder.weights: {weights} lacks {len(needed)} of the weights that {name} up to {layer} needs, "
            f"or has them in another shape: {', '.join(needed[:3])}{', ...' if len(needed) > 3 else ''}"
        )
    shorter_side = round(size * transform["shorter_side"] / transform["size"]) if fit == "crop" else None
    spec = EncoderSpec(
        name=name,
        weights=weights_name,
        weights_sha256=sha256_of_tensors(network.state_dict()),
        layer=layer,
        grid=grid,
        transform=Preprocessing(
            size=size,
            shorter_side=shorter_side,
            interpolation=transform["interpolation"],
            mean=transform["mean"],
            std=transform["std"],
            background=images.BACKGROUND,
        ),
        precision=precision,
    )
    return Encoder(spec, network, device)


def restore(spec: EncoderSpec, tensors: Mapping[str, Tensor] | None, device: torch.device) -> Encoder:
    """The encoder of a spec, from embedded tensors or from torchvision's named weights.

    Raises `ArtefactError` when the weights are not those that made the features, or cannot be had.
    """
    if tensors:
        with torch.device("meta"):
            network = up_to(blank_network(spec.name), spec.layer, spec.name)
        try:
            network.load_state_dict(dict(tensors), assign=True)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise ArtefactError(f"the weights in the model file are not those of {spec.name}: {reason}") from error
    else:
        try:
            model, *_ = load(spec.name, spec.weights, 0)
        except WeightsNotFetched as error:
            raise ArtefactError(
                f"the model file does not hold its encoder's weights, and {error}; where there is a network, "
                "`captioner export --self-contained FILE` writes one that does"
            ) from error
        network = up_to(model, spec.layer, spec.name)
    found = sha256_of_tensors(network.state_dict())
    if found != spec.weights_sha256:
        raise ArtefactError(
            f"the weights of {spec.name} ({spec.weights}) have sha256 {found[:12]}, the features were made with "
            f"{spec.weights_sha256[:12]}; train again, or use the weights of that time"
        )
    return Encoder(spec, network, device)
