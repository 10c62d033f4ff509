"""A whole model: picture and box in, mask out."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.contract.errors import UserError
from sim.contract.folder import ModelFolder, read_folder
from sim.contract.wide import Wide, to_wide
from sim.golden.architecture import ENCODER, Architecture
from sim.golden.mask_decoder import decode_mask
from sim.golden.parameters import Observer, Parameters
from sim.golden.prompt_encoder import encode_prompt
from sim.golden.rehearsal import blank, rehearse
from sim.picture import Box, check_box, mask_from_logits, preprocess


@dataclass(frozen=True)
class Segmentation:
    """What one box on one picture gives.

    mask: bool (height, width) of the picture. logits: float32 over the encoder's padded square, four to a pixel of
    the embedding. predicted_iou: the model's own estimate of the mask's quality. encoder_seconds, decoder_seconds:
    wall time.
    """

    mask: NDArray[np.bool_]
    logits: NDArray[np.float32]
    predicted_iou: float
    encoder_seconds: float
    decoder_seconds: float


class GoldenModel:
    """The numpy golden model of one exported folder.

    The image encoder is integers from its input to its embedding, the same on every machine. The prompt encoder and
    the mask decoder compute in float32 between their integer operations; those values may differ in the last place
    from one numpy build to the next, and so may codes that lie on a threshold there.
    """

    def __init__(self, parameters: Parameters, architecture: Architecture) -> None:
        """Raises UserError when the network needs an operation or a tensor that is missing or does not fit, or never
        runs one that is there."""
        self.parameters = parameters
        self.architecture = architecture
        names = rehearse(parameters, self._rehearse)
        left = parameters.operations.keys() - set(names)
        if left:
            raise UserError(f"the network never runs {min(left)} of the model; export the model again")

    @classmethod
    def from_folder(cls, path: Path) -> "GoldenModel":
        """Read an exported folder. Raises UserError when a file is missing, damaged or of another version."""
        return cls.from_contents(read_folder(path))

    @classmethod
    def from_contents(cls, folder: ModelFolder) -> "GoldenModel":
        """The model of a folder that has been read. Raises UserError when its architecture is not supported."""
        return cls(Parameters(folder.tensors, folder.operations), Architecture.from_manifest(folder.manifest))

    def _rehearse(self, parameters: Parameters) -> None:
        """The whole network on blank inputs, the decoder for an embedding of a few pixels."""
        side = self.architecture.input_format.side
        embedding = self.architecture.encode(blank((side, side, 3), self.architecture.input_exponent), parameters)
        small = np.zeros((2, 2, embedding.values.shape[-1]), np.float32)
        prompt = encode_prompt(np.zeros(4, np.float32), side, small.shape[:2], parameters)
        decode_mask(small, prompt, self.architecture.decoder, parameters)

    def encoder_layers(self) -> list[str]:
        """Names of the operations of the image encoder, in the order of the folder."""
        return [name for name in self.parameters.operations if name.startswith(f"{ENCODER}.")]

    def wide_picture(self, pixels: NDArray[np.float32]) -> Wide:
        """What the image encoder gets, (side, side, 3), of pixels float32 (1, 3, side, side).

        Raises ValueError for another input shape.
        """
        side = self.architecture.input_format.side
        if pixels.shape != (1, 3, side, side):
            raise ValueError(f"pixels must be (1, 3, {side}, {side}), found {pixels.shape}")
        return to_wide(np.ascontiguousarray(pixels[0].transpose(1, 2, 0)), self.architecture.input_exponent)

    def encode_wide(self, pixels: NDArray[np.float32], observer: Observer | None = None) -> Wide:
        """Image embedding (rows, columns, 256) of pixels float32 (1, 3, side, side), integers all the way.

        Rounding the pixels to wide numbers is the only step that sees a float. `observer` sees every operation as it
        finishes. Raises ValueError for another input shape.
        """
        return self.architecture.encode(self.wide_picture(pixels), self.parameters.observed_by(observer))

    def encode_image(self, pixels: NDArray[np.float32], observer: Observer | None = None) -> NDArray[np.float32]:
        """Real values float32 (1, 256, rows, columns), channel-first, of `encode_wide`."""
        return np.ascontiguousarray(self.encode_wide(pixels, observer).real().transpose(2, 0, 1))[None]

    def decode(
        self, embedding: NDArray[np.float32], box: NDArray[np.float32], observer: Observer | None = None
    ) -> tuple[NDArray[np.float32], float]:
        """Mask logits float32 (4 * rows, 4 * columns) and predicted IoU for one box.

        embedding: float32 (1, 256, rows, columns). box: float32 (4,), x0, y0, x1, y1 in pixels of the padded square.
        """
        parameters = self.parameters.observed_by(observer)
        prompt = encode_prompt(box, self.architecture.input_format.side, embedding.shape[2:], parameters)
        channel_last = np.ascontiguousarray(embedding[0].transpose(1, 2, 0))
        return decode_mask(channel_last, prompt, self.architecture.decoder, parameters)

    def segment(self, picture: NDArray[np.uint8], box: Box, observer: Observer | None = None) -> Segmentation:
        """Segment what a box encloses.

        picture: uint8 RGB (height, width, 3). box: x0, y0, x1, y1 in pixels of the picture. `observer` sees
        every operation of encoder and decoder as it finishes. Raises UserError for a box that is empty or leaves the
        picture.
        """
        height, width = picture.shape[:2]
        check_box(box, width, height)
        prepared = preprocess(picture, self.architecture.input_format)
        start = time.perf_counter()
        embedding = self.encode_image(prepared.pixels, observer)
        encoded = time.perf_counter()
        logits, predicted_iou = self.decode(embedding, prepared.scale_box(box), observer)
        mask = mask_from_logits(logits, prepared)
        decoded = time.perf_counter()
        return Segmentation(mask, logits, predicted_iou, encoded - start, decoded - encoded)
