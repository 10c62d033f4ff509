"""A whole model: picture and box in, mask out."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.contract.folder import ModelFolder, read_folder
from sim.golden.architecture import ENCODER, Architecture
from sim.golden.mask_decoder import decode_mask
from sim.golden.parameters import LayerObserver, Parameters
from sim.golden.prompt_encoder import encode_prompt
from sim.golden.tinyvit import encode_image
from sim.picture import Box, check_box, mask_from_logits, preprocess


@dataclass(frozen=True)
class Segmentation:
    """What one box on one picture gives.

    mask: bool (height, width) of the picture. logits: float32 over the encoder's padded square, 256 x 256.
    predicted_iou: the model's own estimate of the mask's quality. encoder_seconds, decoder_seconds: wall time.
    """

    mask: NDArray[np.bool_]
    logits: NDArray[np.float32]
    predicted_iou: float
    encoder_seconds: float
    decoder_seconds: float


class GoldenModel:
    """The numpy golden model of one exported folder, or of any `Parameters`.

    Deterministic inside quantized layers; the float32 operations between them may differ in the last place
    from one numpy build to the next, and so may codes that lie on a threshold.
    """

    def __init__(self, parameters: Parameters, architecture: Architecture) -> None:
        self.parameters = parameters
        self.architecture = architecture

    @classmethod
    def from_folder(cls, path: Path) -> "GoldenModel":
        """Read an exported folder. Raises UserError when a file is missing, damaged or of another version."""
        return cls.from_contents(read_folder(path))

    @classmethod
    def from_contents(cls, folder: ModelFolder) -> "GoldenModel":
        """The model of a folder that has been read. Raises UserError when its architecture is not supported."""
        architecture = Architecture.from_manifest(folder.manifest)
        architecture.check_tensors(folder.tensors)
        return cls(Parameters(folder.tensors, folder.layers), architecture)

    def encoder_layers(self) -> list[str]:
        """Names of the quantized layers of the image encoder."""
        return [name for name in self.parameters.quantized if name.startswith(f"{ENCODER}.")]

    def encode_image(self, pixels: NDArray[np.float32], observer: LayerObserver | None = None) -> NDArray[np.float32]:
        """Image embedding float32 (1, 256, 64, 64) of pixels float32 (1, 3, 256, 256), both channel-first.

        `observer` sees every quantized layer as it finishes. Raises ValueError for another input shape.
        """
        side = self.architecture.input_side
        if pixels.shape != (1, 3, side, side):
            raise ValueError(f"pixels must be (1, 3, {side}, {side}), found {pixels.shape}")
        channel_last = np.ascontiguousarray(pixels[0].transpose(1, 2, 0))
        parameters = self.parameters.observed_by(observer)
        embedding = encode_image(channel_last, self.architecture.stages, parameters, ENCODER)
        return np.ascontiguousarray(embedding.transpose(2, 0, 1))[None]

    def decode(
        self, embedding: NDArray[np.float32], box: NDArray[np.float32], observer: LayerObserver | None = None
    ) -> tuple[NDArray[np.float32], float]:
        """Mask logits float32 (256, 256) and predicted IoU for one box.

        embedding: float32 (1, 256, 64, 64). box: float32 (4,), x0, y0, x1, y1 in pixels of the padded square.
        """
        parameters = self.parameters.observed_by(observer)
        prompt = encode_prompt(box, self.architecture.input_side, embedding.shape[2:], parameters)
        channel_last = np.ascontiguousarray(embedding[0].transpose(1, 2, 0))
        return decode_mask(channel_last, prompt, self.architecture.decoder, parameters)

    def segment(self, picture: NDArray[np.uint8], box: Box, observer: LayerObserver | None = None) -> Segmentation:
        """Segment what a box encloses.

        picture: uint8 RGB (height, width, 3). box: x0, y0, x1, y1 in pixels of the picture. `observer` sees
        every quantized layer of encoder and decoder as it finishes. Raises UserError for a box that is empty
        or leaves the picture.
        """
        height, width = picture.shape[:2]
        check_box(box, width, height)
        prepared = preprocess(picture)
        start = time.perf_counter()
        embedding = self.encode_image(prepared.pixels, observer)
        encoded = time.perf_counter()
        logits, predicted_iou = self.decode(embedding, prepared.scale_box(box), observer)
        mask = mask_from_logits(logits, prepared)
        decoded = time.perf_counter()
        return Segmentation(mask, logits, predicted_iou, encoded - start, decoded - encoded)
