"""The shipped speech function in a plain Python process, on a real recording and on what is none."""

from __future__ import annotations

import base64
import io
import json
import wave
from pathlib import Path
from typing import Any

import numpy
import pytest

from glowplug.handlers import speech

RECORDING = Path(__file__).parents[1] / "data" / "speech.wav"


def wav(samples: Any, *, rate: int = 16000, channels: int = 1) -> bytes:
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(numpy.asarray(samples, "<i2").tobytes())
    return data.getvalue()


def direct(data: bytes) -> Any:
    return speech.handler({"wav": base64.b64encode(data).decode()}, None)


def by_url(data: bytes) -> Any:
    event = {"requestContext": {"http": {"method": "POST"}}, "isBase64Encoded": True}
    return speech.handler(event | {"body": base64.b64encode(data).decode()}, None)


def test_it_finds_the_sentence_between_two_silences() -> None:
    answer = direct(RECORDING.read_bytes())
    assert 1.857 == answer["seconds"]
    assert 1 == len(answer["speech"])
    assert answer["speech"][0]["start"] == pytest.approx(0.5, abs=0.1)
    assert answer["speech"][0]["end"] == pytest.approx(1.36, abs=0.1)


def test_a_url_call_sends_the_file_itself() -> None:
    assert direct(RECORDING.read_bytes()) == by_url(RECORDING.read_bytes())


def test_half_the_samples_are_enough() -> None:
    with wave.open(str(RECORDING)) as file:
        samples = numpy.frombuffer(file.readframes(file.getnframes()), "<i2")
    answer = direct(wav(samples[::2], rate=8000))
    assert 1 == len(answer["speech"])
    assert answer["speech"][0]["start"] == pytest.approx(0.5, abs=0.15)


def test_noise_and_tones_are_no_speech() -> None:
    time = numpy.arange(16000) / 16000
    noise = numpy.random.default_rng(0).normal(0, 300, 16000)
    sounds = [numpy.zeros(16000), noise, 8000 * numpy.sin(2 * numpy.pi * 440 * time), numpy.zeros(0)]
    assert [[]] * 4 == [direct(wav(samples))["speech"] for samples in sounds]


def test_pauses_and_clicks() -> None:
    def found(text: str) -> list[tuple[float, float]]:
        return speech.segments([{"#": 0.9, "-": 0.4, ".": 0.1}[mark] for mark in text], 0.1)

    assert [] == found("")
    assert [] == found("..#..")  # a click
    assert [(0.2, 0.6)] == [(round(a, 3), round(b, 3)) for a, b in found("..####....")]
    assert [(0.0, 0.7)] == [(round(a, 3), round(b, 3)) for a, b in found("###.###")]  # too short a pause
    assert [(0.0, 0.9)] == [(round(a, 3), round(b, 3)) for a, b in found("###---###")]  # never clearly below
    assert [(0.0, 0.3), (0.6, 0.9)] == [(round(a, 3), round(b, 3)) for a, b in found("###...###")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a WAV file"),
        (b"RIFF\x00\x00\x00\x00WAVE", "not a WAV file"),
        (b"ID3 an mp3", "not a WAV file"),
        (wav([0] * 99, rate=44100), "1 channels of 16 bits at 44100 Hz; send one of"),
        (wav([0] * 99, channels=3), "3 channels"),
    ],
)
def test_what_is_no_recording_is_a_400_with_the_reason(data: bytes, message: str) -> None:
    answer = by_url(data)
    assert 400 == answer["statusCode"]
    assert message in json.loads(answer["body"])["message"]
    with pytest.raises(ValueError, match=r"WAV|channels"):
        direct(data)


@pytest.mark.parametrize("event", [None, {}, {"wav": 3}, {"wav": "no base64!"}, []])
def test_an_event_without_a_recording_is_refused(event: Any) -> None:
    with pytest.raises(ValueError, match=r"send|base64"):
        speech.handler(event, None)
