"""One video in the feature cache: a safetensors file, checked to the last byte before it is used.

It holds the visual tokens, the features where cross-attention reads them, and what the language model
computed of the video where that is quicker to read than to compute.

Its metadata describe the frames and the source, and hold a checksum of themselves and of the tensors.
An entry that is damaged is removed, and the video encoded as if there were none; one that cannot be
written costs a notice.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch

from crosslmm.fingerprint import settings_hash, weights_fingerprint
from crosslmm.finite_values import is_finite
from crosslmm.inference.answer import FrameUsed
from crosslmm.inference.encoding import EncodedVideo, TooManyFrames, memory_errors
from crosslmm.inference.feature_cache import FeatureCache, read_description, read_header
from crosslmm.inference.file_content import FileContent
from crosslmm.inference.prefix import VideoPrefix
from crosslmm.inference.runtime import Runtime
from crosslmm.merging import TokenBudget
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration, VisualTokens
from crosslmm.options import Sampling
from crosslmm.packed_features import is_packed, split_packed
from crosslmm.ragged_tokens import RaggedTokens
from crosslmm.video import SourceInfo

_FORMAT = 2  # of an entry, and of all that is in its name
_PREFIX = "prefix."
_READ_RATE = 200e6  # bytes that a modest disk gives, and a processor checks, in a second
_DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I8": torch.int8,  # packed features
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# What comes of reading a file that may hold anything.
_DAMAGE = (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError)
_PIECE = 1 << 24  # elements that are copied from the device at once
_CHECKSUM = 64  # hexadecimal digits


class CachedVideo:
    """What is, or will be, kept of a video file that is sampled and merged like this."""

    def __init__(
        self,
        runtime: Runtime,
        cache: FeatureCache,
        path: str | os.PathLike[str],
        sampling: Sampling,
        budget: TokenBudget,
    ) -> None:
        self._runtime, self._cache = runtime, cache
        self._path, self._sampling, self._budget = os.fsdecode(path), sampling, budget
        self._content: FileContent | None = None

    @torch.inference_mode()  # as they are encoded: elsewhere a closed gate counts as open
    def read(self) -> EncodedVideo | None:
        """What is kept; None where nothing is, or it is damaged. Raises TooManyFrames."""
        began = time.perf_counter()
        content = self._content = self._cache.claim(self._path)
        if content is None or not self._cache.may_hold_content(content, self._sampling):
            return None
        if content.wait() is None:
            return None
        name = self._cache.entry_name(content, self._sampling, self._model_key())
        file = self._cache.open_entry(name)
        if file is None:
            return None
        with file:
            try:
                return self._decode(file, name, began)
            except _DAMAGE:
                self._cache.remove_entry(name)
        return None

    @torch.inference_mode()
    def write(
        self, encoded: EncodedVideo, prefix: VideoPrefix | None = None, prefill_seconds: float = 0.0
    ) -> None:
        """Keep what was encoded after `read` gave nothing, and prefilled, if that is worth it. No prefix
        is kept of one among several videos.

        Nothing is kept of a video that took no time, or was read with a warning, nor of one that takes
        longer to hash than it took to encode.
        """
        spent = encoded.decode_seconds + encoded.encode_seconds
        content = self._content
        if spent < self._cache.least_seconds or encoded.warnings or content is None:
            return
        if content.wait(spent) is None or not content.is_current():
            return
        tensors = _tensors_of(encoded.visual)
        if _bytes_in(tensors) > spent * _READ_RATE:
            return
        kept = {} if prefix is None else prefix.tensors()
        computed = {_PREFIX + key: tensor for key, tensor in kept.items()}
        if _bytes_in(computed) < prefill_seconds * _READ_RATE:
            tensors |= computed
        features = encoded.visual.features
        scales = self._runtime.model.model.feature_scales
        if features is not None and not _are_finite(features, scales):
            return
        if not all(map(is_finite, tensors.values())):
            return
        # The widest first, so that each begins where its type may.
        tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))
        name = self._cache.entry_name(content, self._sampling, self._model_key())
        header = self._header(encoded, name, tensors)
        size = len(header) + _bytes_in(tensors)
        try:
            with memory_errors():
                self._cache.write_entry(name, size, lambda file: _write(file, header, tensors))
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or error
            if (place := getattr(error, "filename", None)) is not None:
                reason = f"{place}: {reason}"
            self._runtime.notice(
                f"{self._path}: what was encoded of it could not be kept in the cache: {reason}"
            )

    def _decode(self, file: IO[bytes], name: str, began: float) -> EncodedVideo:
        header = read_header(file)
        description = read_description(header)
        if description["name"] != name:
            raise ValueError("an entry of another name")
        frames = tuple(FrameUsed(index, time) for index, time in description["frames"])
        try:
            with memory_errors():
                tensors = _read(file, header)
                prefix = self._computed(tensors)
                visual = self._visual(tensors, len(frames))
        except MemoryError:
            raise TooManyFrames(len(frames)) from None
        source = description["source"]
        return EncodedVideo(
            visual=visual,
            frames=frames,
            encoded=0,
            source=SourceInfo(**source | {"path": self._path, "size": tuple(source["size"])}),
            warnings=(),
            decode_seconds=0.0,
            encode_seconds=time.perf_counter() - began,
            from_cache=True,
            prefix=prefix,
        )

    def _computed(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
        """What is for `restore_prefix`, if anything is. Raises ValueError, KeyError."""
        model = self._runtime.model
        found = {
            name.removeprefix(_PREFIX): tensor.to(model.device, copy=True)
            for name, tensor in tensors.items()
            if name.startswith(_PREFIX)
        }
        if not found:
            return None
        length = found["ids"].shape[1]
        if (mass := found.get("mass")) is not None:
            _check(mass, (1, length), torch.float32)
        for number in range(model.config.text.num_hidden_layers):
            for tensor in (found[f"keys.{number}"], found[f"values.{number}"]):
                _check(tensor, (1, *tensor.shape[1:2], length, *tensor.shape[3:]), model.dtype)
        return found

    def _visual(self, tensors: dict[str, torch.Tensor], frames: int) -> VisualTokens | RaggedTokens:
        """Raises ValueError for tensors that are not what the model would make of so many frames."""
        model, config = self._runtime.model, self._runtime.model.config
        features = tensors.pop("features", None)
        width = int(config.text.hidden_size)
        if features is not None:
            kept, dtype = model.model.kept_features
            _check(features, (1, frames, config.patches_per_frame, kept), dtype)
            if not _are_finite(features, model.model.feature_scales):
                raise ValueError("features hold a value that is not a number")
            features = features.to(model.device)
        if (features is not None) != model.model.reads_features:
            raise ValueError("features are missing, or not wanted")
        if self._budget.merge is None:
            embeds = tensors["embeds"]
            _check(embeds, (1, frames, self._budget.pooled, width), model.dtype)
            return VisualTokens(embeds.to(model.device), features)
        tokens, place, mass = tensors["tokens"], tensors["place"], tensors["mass"]
        count = len(place)
        _check(tokens, (count, width), model.dtype)
        _check(place, (count,), torch.int64)
        _check(mass, (count,), torch.float32)
        pooled, member = self._budget.pooled, tensors["member"]
        _check(member, (frames * pooled,), torch.int64)
        _check_members(place, mass, member)
        return RaggedTokens(
            tokens.to(model.device),
            (count,),
            mass,
            place,
            (frames,),
            pooled,
            features,
            member=member,
        )

    def _header(self, encoded: EncodedVideo, name: str, tensors: dict[str, torch.Tensor]) -> bytes:
        """With zeros for the checksum."""
        source = asdict(encoded.source)
        description = {
            "name": name,
            "video": Path(self._path).name,
            "frames": [(frame.index, frame.time) for frame in encoded.frames],
            "source": source | {"path": ""},
        }
        text = json.dumps(description)
        header: dict[str, Any] = {"__metadata__": {"sha256": "0" * _CHECKSUM, "entry": text}}
        start = 0
        for key, tensor in tensors.items():
            end = start + tensor.nbytes
            header[key] = {
                "dtype": _NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [start, end],
            }
            start = end
        data = json.dumps(header, separators=(",", ":")).encode()
        data += b" " * (-len(data) % 8)
        return len(data).to_bytes(8, "little") + data

    def _model_key(self) -> str:
        """Of all that an entry depends on besides the frames."""
        runtime = self._runtime
        config = runtime.model.config.to_dict()
        config.pop("_name_or_path", None)
        settings = {
            "format": _FORMAT,
            "checkpoint": runtime.checkpoint_state,
            "weights": weights_fingerprint(_weights_used(runtime.model)),
            "config": json.dumps(config, sort_keys=True, default=str),
            "frames": json.dumps(
                runtime.processor.image_processor.to_dict(), sort_keys=True, default=str
            ),
            "frame_size": list(runtime.processor.frame_size),
            "settings": runtime.settings | {"device": runtime.device.type},
            "versions": runtime.versions,
            "budget": asdict(self._budget),
            "features": runtime.model.model.reads_features,
        }
        return settings_hash(settings, digest_size=16)


def _weights_used(model: CrossLMMForConditionalGeneration) -> dict[str, torch.Tensor]:
    """All but those behind closed gates, which are random where a checkpoint has none, and quantized
    ones, which are the checkpoint's: bitsandbytes lays them out as it likes, when it likes."""
    branches = (branch for layer in model.model.dual_layers for branch in (layer.v2v, layer.t2v))
    closed = {id(weight) for each in branches if not each.is_open for weight in each.parameters()}
    return {
        name: each
        for name, each in model.named_parameters()
        if each.is_floating_point() and id(each) not in closed
    }


def _tensors_of(visual: VisualTokens | RaggedTokens) -> dict[str, torch.Tensor]:
    if isinstance(visual, VisualTokens):
        tensors = {"embeds": visual.embeds}
    else:
        assert visual.member is not None
        tensors = {
            "mass": visual.mass,
            "member": visual.member,
            "place": visual.place,
            "tokens": visual.tokens,
        }
    return tensors if visual.features is None else tensors | {"features": visual.features}


def _bytes_in(tensors: dict[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _write(file: IO[bytes], header: bytes, tensors: dict[str, torch.Tensor]) -> None:
    file.write(header)
    checksum = hashlib.sha256(header)
    for tensor in tensors.values():
        for piece in _pieces(tensor):
            file.write(piece)
            checksum.update(piece)
    file.seek(header.index(b"0" * _CHECKSUM))
    file.write(checksum.hexdigest().encode())


def _read(file: IO[bytes], header: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a file of which the header has been read. Raises ValueError and its like."""
    start, size = file.tell(), os.fstat(file.fileno()).st_size
    ends = [info["data_offsets"][1] for name, info in header.items() if name != "__metadata__"]
    if size != start + max(ends):  # before memory is taken for so much
        raise ValueError("cut off, or longer than it was")
    stored = torch.empty(size, dtype=torch.uint8)
    file.seek(0)
    data = _bytes_of(stored)
    if file.readinto(data) != size:  # type: ignore[attr-defined]
        raise ValueError("cut off")
    written = header["__metadata__"]["sha256"].encode()
    zeroed = bytes(data[:start]).replace(written, b"0" * _CHECKSUM, 1)
    checksum = hashlib.sha256(zeroed)
    checksum.update(data[start:])
    if checksum.hexdigest().encode() != written:
        raise ValueError("damaged")
    tensors = {}
    for name, info in header.items():
        if name != "__metadata__":
            first, last = (start + offset for offset in info["data_offsets"])
            tensors[name] = stored[first:last].view(_DTYPES[info["dtype"]]).view(info["shape"])
            if not is_finite(tensors[name]):
                raise ValueError(f"{name} holds a value that is not a number")
    return tensors


def _pieces(tensor: torch.Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor, a part at a time, from whatever device it is on."""
    flat = tensor.detach().flatten()
    for start in range(0, len(flat), _PIECE):
        yield _bytes_of(flat[start : start + _PIECE].cpu().view(torch.uint8))


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a tensor of uint8 on the CPU."""
    array: Any = tensor.numpy()
    return memoryview(array)


def _are_finite(features: torch.Tensor, scales: int) -> bool:
    return is_finite(split_packed(features, scales)[1] if is_packed(features) else features)


def _check_members(place: torch.Tensor, mass: torch.Tensor, member: torch.Tensor) -> None:
    """Raises ValueError where merged tokens are not in order, or do not stand for all tokens once."""
    inside = len(place) > 0 and int(place[0]) >= 0 and int(place[-1]) < len(member)
    if not inside or not bool((place.diff() > 0).all()):
        raise ValueError("tokens at places that are none, or out of order")
    if int(member.min()) < 0 or int(member.max()) >= len(place):
        raise ValueError("tokens that went into none")
    if not torch.equal(torch.bincount(member, minlength=len(place)).to(mass.dtype), mass):
        raise ValueError("tokens that stand for others than went into them")


def _check(tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype != dtype:
        raise ValueError(f"{tuple(tensor.shape)} of {tensor.dtype}, not {shape} of {dtype}")
