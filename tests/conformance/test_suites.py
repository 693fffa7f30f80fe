"""transformers' own common tests on CrossLMM; `.ci/conformance` fetches them and runs this file."""

import os
import sys
import unittest
from typing import Any
from unittest.mock import patch

import pytest

SUITES = os.environ.get("CROSSLMM_SUITES")
if SUITES is None:
    pytest.skip(
        "transformers' suites are not at hand: bash .ci/conformance", allow_module_level=True
    )
pytest.importorskip("parameterized", reason="transformers' suites need it")
sys.path.insert(0, SUITES)

import torch  # noqa: E402
from hf_suites.test_configuration_common import ConfigTester  # noqa: E402
from hf_suites.test_modeling_common import ModelTesterMixin  # noqa: E402
from hf_suites.test_processing_common import ProcessorTesterMixin  # noqa: E402

from crosslmm.configuration_crosslmm import CrossLMMConfig  # noqa: E402
from crosslmm.modeling_crosslmm import (  # noqa: E402
    CrossLMMForConditionalGeneration,
    CrossLMMModel,
)
from crosslmm.processing_crosslmm import CrossLMMProcessor  # noqa: E402
from tests.conformance.media import url_to_local_path  # noqa: E402
from tests.support.tiny import (  # noqa: E402
    CHAT_TEMPLATE,
    text_config,
    tiny_config,
    tiny_processor,
    vision_config,
)

VIDEO = 4


class CrossLMMTester:
    """What the suites ask of a model's tester: two videos of two frames, a few words."""

    batch_size, frames, words = 3, 2, 6
    is_training = True

    def __init__(self, parent: unittest.TestCase) -> None:
        self.parent = parent
        config = self.get_config()
        self.num_hidden_layers = config.text.num_hidden_layers
        self.num_attention_heads = config.text.num_attention_heads
        self.hidden_size = config.text.hidden_size
        self.vocab_size = config.text.vocab_size
        self.text_config, self.vision_config = text_config(), vision_config()
        self.seq_length = self.encoder_seq_length = self.frames * 4 + self.words

    def get_config(self) -> CrossLMMConfig:
        return tiny_config()

    def prepare_config_and_inputs_for_common(self) -> tuple[CrossLMMConfig, dict[str, Any]]:
        ids = torch.randint(5, 261, (self.batch_size, self.seq_length))
        ids[:, 1 : 1 + self.frames * 4] = VIDEO
        return self.get_config(), {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values_videos": torch.randn(self.batch_size, self.frames, 3, 30, 30),
        }


class CrossLMMModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (CrossLMMModel, CrossLMMForConditionalGeneration)
    _is_composite = True
    test_resize_embeddings = True

    def setUp(self) -> None:
        self.model_tester = CrossLMMTester(self)
        self.config_tester = ConfigTester(
            self, config_class=CrossLMMConfig, has_text_modality=False, **tiny_config().to_dict()
        )

    def test_config(self) -> None:
        self.config_tester.run_common_tests()


class CrossLMMProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    """Skipped here and not for LLaVA-OneVision: nothing. Both skip what needs audio, tools in the chat
    template, a feature extractor, or torchcodec."""

    processor_class = CrossLMMProcessor
    images_input_name = "pixel_values_videos"
    videos_input_name = "pixel_values_videos"
    # One token per byte: every text is long.
    chat_template_max_length = 200

    @classmethod
    def _setup_image_processor(cls) -> Any:
        return tiny_processor().image_processor

    @classmethod
    def _setup_tokenizer(cls) -> Any:
        return tiny_processor().tokenizer

    @staticmethod
    def prepare_processor_dict() -> dict[str, Any]:
        return {"chat_template": CHAT_TEMPLATE, "tokens_per_frame": 4}

    def get_subprocessor_name(self, modality: str, attributes: list[str]) -> Any:
        """The frames of videos go through the image processor."""
        if modality == "videos":
            return "image_processor"
        return super().get_subprocessor_name(modality, attributes)

    def _test_apply_chat_template(  # type: ignore[override]
        self, modality: str, batch_size: int, kind: str, name: str, part: str, data: list[Any]
    ) -> None:
        if part == "video_processor":
            part = "image_processor"
        super()._test_apply_chat_template(modality, batch_size, kind, name, part, data)

    def _get_processor_of_videos(self) -> Any:
        """With what the mixin asks a processor for before it tries videos."""
        processor = self.get_processor()
        processor.video_processor = processor.image_processor
        return processor

    def test_subprocessor_defaults_2_videos(self) -> None:
        """The mixin's compares with a video processor; here its frames are images."""
        processor, video = self.get_processor(), self.prepare_videos_inputs()
        expected = processor.image_processor(list(video), return_tensors="pt")["pixel_values"]
        inputs = processor(text="<video>", videos=video)
        torch.testing.assert_close(inputs[self.videos_input_name][0], expected)

    def test_get_num_multimodal_tokens_matches_processor_call_video(self) -> None:
        with patch.object(self, "get_processor", return_value=self._get_processor_of_videos()):
            super().test_get_num_multimodal_tokens_matches_processor_call_video()

    def test_processor_text_has_no_visual(self) -> None:
        super().test_processor_text_has_no_visual()
        with patch.object(self, "get_processor", return_value=self._get_processor_of_videos()):
            super().test_processor_text_has_no_visual()

    def test_apply_chat_template_video_without_torchcodec(self) -> None:
        """The mixin's need it; crosslmm reads videos with PyAV."""
        files = [url_to_local_path("one.mp4"), url_to_local_path("two.mp4")]
        arrays = [self.prepare_videos_inputs()]
        for data in (files[:1], files, arrays):
            self._test_apply_chat_template(
                "video", len(data), "pt", "videos_input_name", "video_processor", data
            )

    def test_apply_chat_template_video_frame_sampling(self) -> None:
        """As LLaVA-OneVision's, which replaces the mixin's too."""
        video = {"type": "video", "url": url_to_local_path("clip.mp4")}
        messages = [{"role": "user", "content": [video, {"type": "text", "text": "What?"}]}]
        for options, frames in (({"num_frames": 3}, 3), ({"fps": 4}, 4)):
            inputs = self.get_processor().apply_chat_template(
                messages, tokenize=True, return_dict=True, return_tensors="pt", **options
            )
            assert inputs[self.videos_input_name].shape[:2] == (1, frames)
