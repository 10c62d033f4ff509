"""The program folder: `image.bin`, what memory holds before a picture, and `program.json`, what it is.

image.bin begins with the commands, 32 bytes each, and ends where the program may write. A reader believes nothing:
schema, preset, hashes, every command and every place are checked before use.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from sim.compiler.compile import Layer, Placed, Program
from sim.compiler.traffic import traffic
from sim.contract.errors import UserError
from sim.machine.commands import COMMAND_BYTES, Command, Opcode, decode
from sim.machine.presets import MEMORY_MB, MachinePreset, preset_of
from sim.record import write_json, write_whole

FORMAT: Final = "nibblesam-program"
SCHEMA_VERSION: Final = 1
IMAGE_FILE: Final = "image.bin"
PROGRAM_FILE: Final = "program.json"


@dataclass(frozen=True)
class ModelIdentity:
    """Of the model that a program was made from: name, bits, and hash of its tensor file."""

    name: str
    bits: int
    tensors_sha256: str

    @classmethod
    def of_manifest(cls, manifest: dict[str, Any]) -> "ModelIdentity":
        """From the manifest of a model folder."""
        return cls(str(manifest["model"]), int(manifest["bits"]), str(manifest["tensors_sha256"]))


def write_program(path: Path, program: Program, model: ModelIdentity) -> dict[str, Any]:
    """Write a folder; an older program there is replaced, the image last read by its hash. Returns program.json.

    Raises UserError where nothing can be written.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; name a folder for the program")
    layers = [
        {
            "names": list(layer.names),
            "kind": layer.kind,
            "commands": list(layer.commands),
            "result": asdict(layer.result),
            **asdict(traffic(program.commands, layer.commands, program.preset, program.writable)),
        }
        for layer in program.layers
    ]
    document = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "model": asdict(model),
        "preset": asdict(program.preset),
        "image": {"bytes": len(program.image), "sha256": hashlib.sha256(program.image).hexdigest()},
        "commands": len(program.commands),
        "writable": program.writable,
        "needed_bytes": program.needed_bytes,
        "picture": asdict(program.picture),
        "embedding": asdict(program.embedding),
        "layers": layers,
    }
    # The description last: a folder whose writing was cut off has none, or one that its image does not match.
    write_whole(path / IMAGE_FILE, program.image)
    write_json(path / PROGRAM_FILE, document)
    return document


def read_program(path: Path) -> tuple[Program, ModelIdentity]:
    """The program of a folder and the model it is of. Raises UserError, in one line, for whatever is wrong with it."""
    try:
        document = json.loads((path / PROGRAM_FILE).read_text())
        image = (path / IMAGE_FILE).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the program in {path} ({error.strerror}: {error.filename})") from error
    except ValueError as error:
        raise UserError(f"{path / PROGRAM_FILE} is no JSON ({error}); compile the program again") from error
    reader = _Reader(path)
    try:
        return reader.program(document, image)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise reader.refusal(f"it lacks or misspells an entry ({error!r})") from error


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path

    def refusal(self, what: str) -> UserError:
        return UserError(f"{self._path / PROGRAM_FILE}: {what}; compile the program again")

    def program(self, document: dict[str, Any], image: bytes) -> tuple[Program, ModelIdentity]:
        if document["format"] != FORMAT or document["schema_version"] != SCHEMA_VERSION:
            raise self.refusal(
                f"format {document['format']!r} {document['schema_version']!r} is not {FORMAT} {SCHEMA_VERSION}"
            )
        preset = self._preset(document["preset"])
        found = hashlib.sha256(image).hexdigest()
        if (len(image), found) != (document["image"]["bytes"], document["image"]["sha256"]):
            raise UserError(
                f"{self._path / IMAGE_FILE} is damaged: its hash is {found[:12]}...; compile the program again"
            )
        commands = self._commands(image, self._integer(document, "commands", 1, len(image) // COMMAND_BYTES))
        writable = self._integer(document, "writable", len(commands) * COMMAND_BYTES, preset.memory_bytes)
        if len(image) != writable:
            raise self.refusal(f"the image has {len(image)} bytes, the program writes from {writable} on")
        identity = document["model"]
        program = Program(
            preset=preset,
            image=image,
            commands=commands,
            writable=writable,
            needed_bytes=self._integer(document, "needed_bytes", writable, preset.memory_bytes),
            picture=self._place(document["picture"], preset),
            embedding=self._place(document["embedding"], preset),
            layers=self._layers(document["layers"], preset, len(commands)),
        )
        return program, ModelIdentity(str(identity["name"]), int(identity["bits"]), str(identity["tensors_sha256"]))

    def _integer(self, entry: dict[str, Any], key: str, low: int, high: int) -> int:
        value = entry[key]
        if type(value) is not int or not low <= value <= high:
            raise self.refusal(f"{key} must be an integer from {low} to {high}, found {value!r}")
        return value

    def _preset(self, entry: dict[str, Any]) -> MachinePreset:
        preset = preset_of(str(entry["name"]))
        if entry.get("memory_bytes") in [size << 20 for size in MEMORY_MB]:
            # A size of its own is no difference: memory is the board's.
            preset = replace(preset, memory_bytes=entry["memory_bytes"])
        differing = [key for key, value in asdict(preset).items() if entry.get(key) != value]
        if differing:
            raise self.refusal(f"preset {preset.name} has another {differing[0]} now")
        return preset

    def _commands(self, image: bytes, count: int) -> list[Command]:
        commands = [decode(image[at : at + COMMAND_BYTES]) for at in range(0, count * COMMAND_BYTES, COMMAND_BYTES)]
        if commands[-1].opcode != Opcode.STOP:
            raise self.refusal("the program does not end with STOP")
        return commands

    def _place(self, entry: dict[str, Any], preset: MachinePreset) -> Placed:
        shape = entry["shape"]
        if not isinstance(shape, list) or not 2 <= len(shape) <= 4 or not all(type(n) is int and n > 0 for n in shape):
            raise self.refusal(f"{shape!r} is no shape of a tensor")
        pitch = self._integer(entry, "pitch", shape[-1] * 2, preset.memory_bytes)
        size = int(np.prod(shape[:-1], dtype=object)) * pitch
        address = self._integer(entry, "address", 0, preset.memory_bytes - size)
        if type(entry["dense"]) is not bool:
            raise self.refusal("dense must be true or false")
        return Placed(address, pitch, tuple(shape), self._integer(entry, "exponent", -64, 64), entry["dense"])

    def _layers(self, entries: list[dict[str, Any]], preset: MachinePreset, count: int) -> list[Layer]:
        layers = []
        at = 0
        for entry in entries:
            start, stop = entry["commands"]
            if (
                start != at
                or type(stop) is not int
                or not start <= stop <= count * COMMAND_BYTES
                or stop % COMMAND_BYTES
            ):
                raise self.refusal(f"layers do not follow each other at command {start!r}")
            at = stop
            names = tuple(str(name) for name in entry["names"])
            layers.append(Layer(names, str(entry["kind"]), (start, stop), self._place(entry["result"], preset)))
        return layers
