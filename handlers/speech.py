"""Where in a recording somebody speaks, by silero-vad: a model that is an ONNX file, with no torch anywhere.

    {"wav": "<a WAV file in base64: mono, 16 bit, 8 or 16 kHz>"}
        -> {"seconds": 4.1, "speech": [{"start": 1.02, "end": 2.68}]}

directly, or by a function URL, whose body is the WAV file itself (``content-type: audio/wav``). Anything else is a 400
with ``{"message": …}`` for a URL and a ``ValueError`` for a direct call.

The model hears 32 ms at a time and remembers what it heard in a state that goes from call to call. Speech begins where
its probability reaches ``THRESHOLD`` and ends where it stays clearly below for ``PAUSE_S``; what is shorter than
``LEAST_S`` is a click or a cough.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import wave
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from glowplug.handlers import Example, onnx_model

THRESHOLD = 0.5
PAUSE_S = 0.2
LEAST_S = 0.25

_DROP = 0.15  # an end is this much below the threshold, or speech would flicker around it
_WINDOWS = {16000: (512, 64), 8000: (256, 32)}  # samples of a call, and those before them that it is shown again
_STATE = (2, 1, 128)

Array = numpy.ndarray[Any, Any]

vad = onnx_model("silero_vad.onnx", source="package://silero_vad/data/silero_vad.onnx")


@vad.example
def _example() -> Example:
    time = numpy.arange(576, dtype=numpy.float32) / 16000
    tone = 0.3 * numpy.sin(2 * numpy.pi * 180 * time, dtype=numpy.float32)
    return Example(kwargs={"input": tone[None], "state": numpy.zeros(_STATE, numpy.float32), "sr": numpy.array(16000)})


def probabilities(samples: Array, rate: int) -> list[float]:
    """Return the probability of speech in each window of ``samples`` (-1 to 1). A started last window counts."""
    size, context = _WINDOWS[rate]
    padded = numpy.zeros(context + -(-len(samples) // size) * size, numpy.float32)
    padded[context : context + len(samples)] = samples
    state = numpy.zeros(_STATE, numpy.float32)
    found = []
    for begin in range(0, len(padded) - context, size):
        output, state = vad(input=padded[None, begin : begin + context + size], state=state, sr=rate)
        found.append(float(output[0, 0]))
    return found


def segments(chances: Sequence[float], window_s: float) -> list[tuple[float, float]]:
    """Return (start, end) in seconds of what the probabilities say is speech."""
    found: list[tuple[float, float]] = []
    start: int | None = None
    quiet = 0
    for number, chance in enumerate(chances):
        if chance >= THRESHOLD:
            start = number if start is None else start
            quiet = 0
        elif start is not None:
            quiet = quiet + 1 if chance < THRESHOLD - _DROP or quiet else 0
            if quiet * window_s >= PAUSE_S:
                found.append((start * window_s, (number + 1 - quiet) * window_s))
                start, quiet = None, 0
    if start is not None:
        found.append((start * window_s, (len(chances) - quiet) * window_s))
    return [(begin, end) for begin, end in found if end - begin >= LEAST_S]


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Answer a direct call or a function URL call (see the module docstring)."""
    request_context = event.get("requestContext") if isinstance(event, dict) else None
    by_url = isinstance(request_context, dict) and "http" in request_context
    try:
        samples, rate = _recording(_body(event) if by_url else _decoded(event))
    except ValueError as error:
        if not by_url:
            raise
        return {
            "statusCode": 400,
            "headers": {"content-type": "application/json"},
            "body": json.dumps({"message": str(error)}),
        }
    found = segments(probabilities(samples, rate), _WINDOWS[rate][0] / rate)
    return {
        "seconds": round(len(samples) / rate, 3),
        "speech": [{"start": round(start, 3), "end": round(end, 3)} for start, end in found],
    }


def _body(event: Mapping[str, Any]) -> bytes:
    """Return the body of a URL call. Raises ``ValueError``."""
    body = event.get("body") or ""
    return _base64(body) if event.get("isBase64Encoded") else str(body).encode()


def _decoded(event: Any) -> bytes:
    if not isinstance(event, dict) or not isinstance(event.get("wav"), str):
        raise ValueError('send {"wav": "<a WAV file in base64>"}')
    return _base64(event["wav"])


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not base64: {error}") from error


def _recording(data: bytes) -> tuple[Array, int]:
    """Return the samples of a WAV file, -1 to 1, and how many a second. Raises ``ValueError``."""
    try:
        with wave.open(io.BytesIO(data)) as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            frames = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"not a WAV file: {error or 'it is too short'}") from error
    if channels != 1 or width != 2 or rate not in _WINDOWS:
        kind = f"{channels} channels of {8 * width} bits at {rate} Hz"
        raise ValueError(f"a recording of {kind}; send one of 1 channel, 16 bits, 8000 or 16000 Hz")
    return numpy.frombuffer(frames[: len(frames) // 2 * 2], "<i2").astype(numpy.float32) / 32768, rate
