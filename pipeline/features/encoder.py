"""The frozen network with its transform: a picture in, (regions, channels) out.

Any torchvision classification model, read at any node. Whatever the node gives (a map, NHWC or NCHW; a vector;
a transformer's tokens) becomes `grid` x `grid` regions of channels.

B pictures, S input side, R = grid * grid regions, C channels.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import ArtefactError, NumericError, ParamsError
from pipeline.features import images
from pipeline.features.spec import EncoderSpec, Transform, sha256_of_tensors

if TYPE_CHECKING:
    from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RANDOM_IMAGE_SIZE = 112
RANDOM_STRIDE = 8


class Encoder:
    """A network up to one node, on one device.

    Make one with `build` from params, or with `restore` from a spec and its tensors.
    """

    def __init__(self, spec: EncoderSpec, network: nn.Module, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        transform = spec.transform
        self._mean = torch.tensor(transform.mean, device=device).view(3, 1, 1) * 255
        self._std = torch.tensor(transform.std, device=device).view(3, 1, 1) * 255
        with torch.inference_mode():
            blank = torch.zeros(1, 3, transform.size, transform.size, device=device)
            output = _forward(self.network, blank, spec.name)["node"]
        self._channels_last = output.dim() == 4 and self._is_channels_last(output.shape)
        _, self.regions, self.channels = self._regions(output).shape

    def tensors_to_embed(self) -> dict[str, Tensor]:
        """What a model file needs so that the encoder can be rebuilt anywhere: nothing where torchvision has it."""
        if self.spec.weights != "file" and not self.spec.weights.startswith("random:"):
            return {}
        return {name: tensor.cpu().contiguous() for name, tensor in self.network.state_dict().items()}

    def prepare(self, picture: "Image.Image") -> NDArray[np.uint8]:
        """The network's input (S, S, 3) in bytes; normalisation happens on the device."""
        transform = self.spec.transform
        return images.resize(
            picture,
            size=transform.size,
            shorter_side=transform.shorter_side,
            interpolation=transform.interpolation,
        )

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Rows (B, R, C) of pictures (B, S, S, 3). Raises `NumericError` for a row that is not finite.

        On a CPU the pictures go through one by one: a row's last bits depend on the size of the batch, and a picture
        is to have the same row alone (`predict`) as among others (`extract`).
        """
        per_pass = 1 if self.device.type == "cpu" else len(pixels)
        parts = [self._encode(pixels[start : start + per_pass]) for start in range(0, len(pixels), per_pass)]
        return np.concatenate(parts)

    @torch.inference_mode()
    def _encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        batch = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
        batch = ((batch - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        rows = self._regions(_forward(self.network, batch, self.spec.name)["node"]).to(torch.float16).cpu().numpy()
        if not np.isfinite(rows).all():
            raise NumericError(
                f"{self.spec.name} at {self.spec.node} gives values that float16 cannot hold; choose another node"
            )
        return rows

    def encode_pictures(self, pictures: "Sequence[Image.Image]") -> NDArray[np.float16]:
        return self.encode(np.stack([self.prepare(picture) for picture in pictures]))

    def _regions(self, output: Tensor) -> Tensor:
        """(B, R, C) from a node's output."""
        grid = self.spec.grid
        if output.dim() == 2:  # (B, C): a fully connected layer
            if grid != 1:
                raise ParamsError(
                    f"params.encoder.grid: {self.spec.node} of {self.spec.name} gives one vector; must be 1, got {grid}"
                )
            return output.unsqueeze(1)
        if output.dim() == 3:  # (B, T, C): a transformer's tokens, the class token first
            side = int((output.shape[1] - 1) ** 0.5)
            if side * side + 1 != output.shape[1]:
                raise ParamsError(
                    f"params.encoder.node: {self.spec.node} gives {tuple(output.shape)}, not a square of tokens"
                )
            output = output[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        elif output.dim() == 4:
            if self._channels_last:
                output = output.permute(0, 3, 1, 2)
        else:
            raise ParamsError(f"params.encoder.node: {self.spec.node} gives {tuple(output.shape)}, not features")
        pooled = nn.functional.adaptive_avg_pool2d(output.float(), grid)  # (B, C, grid, grid)
        return pooled.flatten(2).transpose(1, 2)

    def _is_channels_last(self, shape: torch.Size) -> bool:
        """Whether a map is (B, H, W, C), as Swin's are: for a square input, the two equal sides are H and W."""
        first, middle, last = shape[1:]
        if first == middle == last:
            raise ParamsError(
                f"params.encoder.node: {self.spec.node} gives {tuple(shape)}, where channels cannot be told from "
                "rows; choose a neighbouring node or another image_size"
            )
        return first == middle


def build(
    *,
    name: str,
    weights: str,
    node: str,
    grid: int,
    image_size: int | str,
    fit: str,
    seed: int,
    device: torch.device,
) -> Encoder:
    """The encoder that params ask for. Raises `ParamsError` naming what is wrong and what there is."""
    model, weights_name, transform = _load(name, weights, seed)
    pretrained = weights != "none"
    if isinstance(image_size, int):
        size = image_size
    else:  # transformers with learned positions accept one size only
        size = transform["size"] if pretrained else getattr(model, "image_size", RANDOM_IMAGE_SIZE)
    if node == "auto":
        node = _last_map(model, name, size, None if pretrained else RANDOM_STRIDE)
    network = _up_to(model, node, name)
    shorter_side = round(size * transform["shorter_side"] / transform["size"]) if fit == "crop" else None
    spec = EncoderSpec(
        name=name,
        weights=weights_name,
        weights_sha256=sha256_of_tensors(network.state_dict()),
        node=node,
        grid=grid,
        transform=Transform(
            size=size,
            shorter_side=shorter_side,
            interpolation=transform["interpolation"],
            mean=transform["mean"],
            std=transform["std"],
            background=images.BACKGROUND,
        ),
        precision="float32",
    )
    return Encoder(spec, network, device)


def restore(spec: EncoderSpec, tensors: Mapping[str, Tensor] | None, device: torch.device) -> Encoder:
    """The encoder of a spec, from embedded tensors or from torchvision's named weights.

    Raises `ArtefactError` when the weights are not those that made the features.
    """
    if tensors:
        with torch.device("meta"):
            network = _up_to(_network(spec.name), spec.node, spec.name)
        network.load_state_dict(dict(tensors), assign=True)
    else:
        model, _, _ = _load(spec.name, spec.weights, 0)
        network = _up_to(model, spec.node, spec.name)
    found = sha256_of_tensors(network.state_dict())
    if found != spec.weights_sha256:
        raise ArtefactError(
            f"the weights of {spec.name} ({spec.weights}) have sha256 {found[:12]}, the features were made with "
            f"{spec.weights_sha256[:12]}; train again, or use the weights of that time"
        )
    return Encoder(spec, network, device)


def _network(name: str) -> nn.Module:
    """An uninitialised-by-us torchvision classification model in evaluation mode."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(known)}"
        raise ParamsError(f"params.encoder.name: torchvision has no classification model {name!r}; {hint}")
    # These two were trained with inputs scaled otherwise, which they undo themselves when told to.
    options = {"init_weights": False, "transform_input": True} if name in {"googlenet", "inception_v3"} else {}
    model: nn.Module = models.get_model(name, weights=None, **options)
    return model.eval()


def _load(name: str, weights: str, seed: int) -> tuple[nn.Module, str, dict[str, Any]]:
    """The whole model, the name of its weights for the spec, and its transform as plain values."""
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _network(name)
    enum = models.get_model_weights(name)
    if weights == "none":
        return model, f"random:{seed}", _transform(enum["DEFAULT"])
    path = Path(weights)
    if path.is_file():
        _load_file(model, path, name)
        return model, "file", _transform(enum["DEFAULT"])
    try:
        chosen = enum[weights.rsplit(".", 1)[-1]]
    except KeyError:
        names = ", ".join(dict.fromkeys(["DEFAULT", *(member.name for member in enum)]))
        raise ParamsError(
            f"params.encoder.weights: must be one of {{{names}}} for {name}, a file, or none, got {weights!r}"
        ) from None
    try:
        model.load_state_dict(chosen.get_state_dict(progress=False, check_hash=True))
    except OSError as error:
        raise ParamsError(
            f"params.encoder.weights: {weights} cannot be fetched from {chosen.url}: {error}; "
            "download it elsewhere and give the file's path"
        ) from error
    return model, chosen.name, _transform(chosen)


def _load_file(model: nn.Module, path: Path, name: str) -> None:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(tensors)
    except Exception as error:  # torch.load raises a different class for each way in which a file can be wrong
        reason = str(error).splitlines()[0]
        raise ParamsError(f"params.encoder.weights: {path} is not a state dict of {name}: {reason}") from error


def _transform(weights: Any) -> dict[str, Any]:
    """torchvision's own preprocessing as plain values."""
    preset = weights.transforms()
    return {
        "size": preset.crop_size[0],
        "shorter_side": preset.resize_size[0],
        "interpolation": preset.interpolation.value,
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
    }


def _up_to(model: nn.Module, node: str, name: str) -> nn.Module:
    """The part of `model` that `node` depends on; its output is `{"node": tensor}`."""
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    try:
        network: nn.Module = create_feature_extractor(model, {node: "node"}, suppress_diff_warning=True)
        return network.eval()
    except ValueError as error:
        known = get_graph_node_names(model, suppress_diff_warning=True)[1]
        close = difflib.get_close_matches(node, [*_blocks(known[1:]), *known[1:]], n=3)
        hint = f"did you mean {', '.join(dict.fromkeys(close))}? " if close else ""
        raise ParamsError(
            f"params.encoder.node: {name} has no node {node!r}; {hint}known: {', '.join(_blocks(known[1:]))}"
        ) from error


def _blocks(nodes: list[str]) -> list[str]:
    """The nodes that people choose: the names down to two levels, in the network's order."""
    names = (".".join(node.split(".")[:depth]) for node in nodes for depth in (1, 2))
    return list(dict.fromkeys(names))


@torch.inference_mode()
def _last_map(model: nn.Module, name: str, size: int, stride: int | None) -> str:
    """The last block whose output still has rows and columns (at least as fine as `stride`), or the last tokens."""
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    nodes = _blocks(get_graph_node_names(model, suppress_diff_warning=True)[1][1:])
    nodes = [node for node in nodes if not node.startswith(("avgpool", "classifier", "fc", "head"))]
    extractor = create_feature_extractor(model, {node: node for node in nodes}, suppress_diff_warning=True)
    outputs = _forward(extractor, torch.zeros(1, 3, size, size), name)
    best = None
    for node, output in outputs.items():  # in the order in which the network computes them
        side = _side(output)
        if side > 1 and not (stride and size // side > stride):
            best = node
    if best is None and stride:  # a transformer's patches are coarser from the start
        return _last_map(model, name, size, None)
    if best is None:
        raise ParamsError("params.encoder.node: auto finds no feature map in this network; name a node")
    return best


def _forward(network: nn.Module, batch: Tensor, name: str) -> dict[str, Tensor]:
    """The outputs by node. Raises `ParamsError` when the network does not take pictures of this size."""
    try:
        outputs: dict[str, Tensor] = network(batch)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ParamsError(f"params.encoder.image_size: {name} does not accept {batch.shape[-1]}: {error}") from error
    return outputs


def _side(output: object) -> int:
    """Rows of a node's square map or of its square of tokens; 0 for what has none."""
    if not isinstance(output, Tensor):
        return 0
    if output.dim() == 4:
        return output.shape[1] if output.shape[1] == output.shape[2] else output.shape[2]
    if output.dim() == 3:
        side = int((output.shape[1] - 1) ** 0.5)
        return side if side * side + 1 == output.shape[1] else 0
    return 0
