"""Speech Commands, from a tiny copy of its folder: clips, features, the paper's network, and a round."""

import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from lockstep import train

from shoal.methods.errors import BadOption
from shoal.methods.fedstar.method import FedSTAR, FedSTARConfig
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.task import load_task
from shoal.methods.tasks.speech_commands import (
    RATE,
    SILENCE,
    UNKNOWN,
    SpeechCommands,
    find_clips,
    log_mel,
    mel_bands,
    read_clip,
)

CLIPS = 12


def write(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 20_000).astype("<i2").tobytes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two words, and one that is unknown: tones, of which a third are the test set."""
    dice, tests = np.random.default_rng(0), []
    for word, hertz in (("yes", 300), ("no", 900), ("bird", 2400)):
        for i in range(CLIPS):
            time = np.arange(RATE - 500 * i) / RATE
            write(tmp_path / word / f"{i:02}.wav", np.sin(2 * np.pi * hertz * time + dice.uniform(0, 6)))
            if i % 3 == 0:
                tests.append(f"{word}/{i:02}.wav")
    write(tmp_path / "_background_noise_" / "hum.wav", dice.standard_normal(3 * RATE) / 20)
    (tmp_path / "testing_list.txt").write_text("\n".join(tests))
    return tmp_path


def test_clips_have_the_labels_of_their_folders_and_the_list_decides_the_test_set(folder: Path) -> None:
    training, validation, test = find_clips(folder, 0)
    assert not validation
    assert [sum(clip[2] == label for clip in training) for label in (0, 1, UNKNOWN, SILENCE)] == [8, 8, 8, 2]
    assert [sum(clip[2] == label for clip in test) for label in (0, 1, UNKNOWN, SILENCE)] == [4, 4, 4, 1]
    assert not {clip[0] for clip in training if clip[2] != SILENCE} & {clip[0] for clip in test}


def test_clips_of_the_validation_list_are_neither_trained_on_nor_tested(folder: Path) -> None:
    before = find_clips(folder, 0)
    (folder / "validation_list.txt").write_text("yes/01.wav\nno/01.wav\nno/02.wav\n")
    training, validation, test = find_clips(folder, 0)
    assert [clip[0].name for clip in validation if clip[2] != SILENCE] == ["01.wav", "02.wav", "01.wav"]
    assert not {clip[0] for clip in training if clip[2] != SILENCE} & {clip[0] for clip in validation}
    assert [clip for clip in test if clip[2] != SILENCE] == [c for c in before[2] if c[2] != SILENCE]
    held = SpeechCommands(str(folder)).validation_data()
    assert held is not None
    assert len(held[0]) == len(held[1]) == len(validation)


def test_a_short_clip_is_filled_up_and_scaled(folder: Path) -> None:
    samples = read_clip(folder / "yes" / "11.wav", 0)
    assert samples.shape == (RATE,)
    assert not samples[RATE - 5000 :].any()
    assert float(np.linalg.norm(samples)) == pytest.approx(1)


def test_a_tone_lights_the_band_it_lies_in() -> None:
    for hertz in (200, 1000, 5000):
        tone = np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)
        spectrum = log_mel(tone)
        assert spectrum.shape == (64, 98)
        centres = np.fft.rfftfreq(1024, 1 / RATE)[mel_bands().argmax(axis=1)]
        assert centres[spectrum.mean(axis=1).argmax()] == pytest.approx(hertz, rel=0.1)


def test_the_network_has_the_size_of_the_papers(folder: Path) -> None:
    task = SpeechCommands(str(folder))
    model = task.model()
    assert sum(p.numel() for p in model.parameters()) == 136_196
    assert model(task.train_data()[0][:2]).shape == (2, 12)
    assert task.embed(task.train_data()[0]).shape == (26, 128)


def test_shares_are_disjoint_and_labels_hidden(folder: Path) -> None:
    tasks = [SpeechCommands(str(folder), share=f"{i}/2", labelled=0.4) for i in (1, 2)]
    labelled = [len(task.train_data()[1]) for task in tasks]
    unlabelled = [len(x) for task in tasks if (x := task.unlabelled_data()) is not None]
    assert sum(labelled) + sum(unlabelled) == 26
    assert sum(labelled) == 3 + 3 + 3 + 1
    assert torch.equal(tasks[0].test_data()[0], tasks[1].test_data()[0])


def test_labels_can_be_wrong(folder: Path) -> None:
    true = SpeechCommands(str(folder)).train_data()[1]
    wrong = SpeechCommands(str(folder), noise=1.0, noisy=1.0).train_data()[1]
    assert not (true == wrong).any()


def test_two_peers_run_rounds_on_it(folder: Path) -> None:
    learners = [
        TorchLearner(SpeechCommands(str(folder), share=f"{i}/2", labelled=0.5, limit=8), seed=0)
        for i in (1, 2)
    ]
    states, reports = train(FedSTAR(FedSTARConfig(rounds=2, batch_size=8)), learners, learners[0].initial, 2)
    assert states[0].params.tobytes() == states[1].params.tobytes()
    assert reports[0][0].loss > 0


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (lambda folder: (folder / "testing_list.txt").unlink(), "testing_list.txt cannot be read"),
        (lambda folder: (folder / "testing_list.txt").write_text(""), "no clips for training or none of"),
        (lambda folder: (folder / "yes" / "01.wav").write_bytes(b"x"), "is no wave file"),
        (lambda folder: write(folder / "yes" / "01.wav", np.zeros(10), 8000), "not of 16 kHz"),
    ],
    ids=["no list", "empty list", "no wave", "other rate"],
)
def test_a_folder_that_is_no_data_set_is_refused_with_the_fix(folder: Path, harm: object, text: str) -> None:
    harm(folder)  # type: ignore[operator]
    with pytest.raises(BadOption, match=text):
        load_task("speech_commands", {"folder": str(folder)})
