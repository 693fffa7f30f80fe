"""transformers' own common tests on CrossLMM; `.ci/conformance` fetches them and runs this file."""

import os
import sys
import tempfile
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
from hf_suites import test_modeling_common as common  # noqa: E402
from hf_suites.generation.test_utils import GenerationTesterMixin  # noqa: E402
from hf_suites.test_configuration_common import ConfigTester  # noqa: E402
from hf_suites.test_modeling_common import ModelTesterMixin  # noqa: E402
from hf_suites.test_processing_common import ProcessorTesterMixin  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers.cache_utils import EncoderDecoderCache  # noqa: E402

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

# The suites know the classes of transformers by these tables; a class registered from outside is in
# the `Auto` classes only.
for table, name in (
    ("MODEL_MAPPING_NAMES", "CrossLMMModel"),
    ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "CrossLMMForConditionalGeneration"),
):
    setattr(common, table, {**getattr(common, table), "crosslmm": name})


# Why a test of the model suites may be skipped, by the suites' own words. LlavaOnevision's test skips
# the same and more; what is not listed fails.
SKIPS = {
    "requires (multiple )?accelerator": "needs a GPU",
    "requires MPS": "needs a GPU of Apple's",
    "requires Flash Attention": "needs a GPU and flash-attn",
    "requires the kernels library": "needs the kernels library",
    "requires deepspeed": "needs deepspeed",
    "requires optimum-quanto": "needs optimum-quanto",
    "should contain padding": "the test's prompts are of one length; LlavaOnevision's too",
    "test is slow": "needs a GPU, and RUN_SLOW=1",
    "does not support grouped_mm": "of mixtures of experts",
    "no sparse experts": "of mixtures of experts",
    "no `output_router_logits`": "of mixtures of experts",
    "not an encoder-decoder": "of encoder-decoders; the language model is a decoder",
    "keep_in_fp32_modules": "no weights are kept in float32 under another precision",
    "does not have position embeddings": "positions are rotary, there is no table to resize",
    "partial rope": "no language model supported rotates a part of each head",
    "axial RoPE": "the encoder's positions are learned",
    "does not support SDPA": "of models that are not composite; the composite one is run",
    "sliding window mask": "the language model of the test attends to all",
}


class CrossLMMTester:
    """What the suites ask of a model's tester: three videos of two frames, a few words."""

    batch_size, frames, words = 3, 2, 6
    video_token_id = 4
    is_training = True
    # As the suites' own testers: few layers; weights of a size whose sums float16 and float32 round
    # within the suites' tolerance; positions few enough for theirs of rotary frequencies.
    text_config = text_config(
        num_hidden_layers=2, initializer_range=0.02, max_position_embeddings=580
    )
    vision_config = vision_config()

    def __init__(self, parent: unittest.TestCase) -> None:
        self.parent = parent
        self.num_hidden_layers = self.text_config["num_hidden_layers"]
        self.num_attention_heads = self.text_config["num_attention_heads"]
        self.hidden_size = self.text_config["hidden_size"]
        self.vocab_size = self.text_config["vocab_size"]
        self.seq_length = self.encoder_seq_length = self.frames * 4 + self.words

    def get_config(self) -> CrossLMMConfig:
        return tiny_config(
            text=self.text_config, vision=self.vision_config, cross_attention_interval=1
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[CrossLMMConfig, dict[str, Any]]:
        ids = torch.randint(5, self.vocab_size, (self.batch_size, self.seq_length))
        ids[:, 1 : 1 + self.frames * 4] = self.video_token_id
        return self.get_config(), {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values_videos": torch.randn(self.batch_size, self.frames, 3, 30, 30),
        }


# They look at the cache that `generate` returns, which is a pair, as at the language model's own.
UNPAIRED = (
    "test_generate_with_static_cache",
    "test_generate_from_inputs_embeds_with_static_cache",
    "test_generate_compile_model_forward_fullgraph",
)


def generate_unpaired(
    *args: Any, _generate: Any = CrossLMMForConditionalGeneration.generate, **kwargs: Any
) -> Any:
    output = _generate(*args, **kwargs)
    output.past_key_values = output.past_key_values.self_attention_cache
    return output


class CrossLMMModelTest(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (CrossLMMModel, CrossLMMForConditionalGeneration)
    _is_composite = True
    # They read the year of a model in the first lines of its file; ours have none.
    test_can_init_all_missing_weights_before_2023 = True
    # The encoder's final norm is read by nobody, as in LlavaOnevision.
    test_all_params_have_gradient = False

    def setUp(self) -> None:
        self.model_tester = CrossLMMTester(self)
        self.config_tester = ConfigTester(
            self,
            config_class=CrossLMMConfig,
            has_text_modality=False,
            common_properties=["video_token_id", "num_hidden_layers", "vision_feature_layer"],
        )
        if self._testMethodName in UNPAIRED:
            unpaired = patch.object(CrossLMMForConditionalGeneration, "generate", generate_unpaired)
            unpaired.start()
            self.addCleanup(unpaired.stop)

    def test_config(self) -> None:
        self.config_tester.run_common_tests()

    def _image_features_prepare_config_and_inputs(self) -> tuple[CrossLMMConfig, dict[str, Any]]:
        # Prompts hold videos only; `get_image_features` takes single frames.
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        return config, {"pixel_values": inputs["pixel_values_videos"][:, 0]}

    def _check_past_key_values_for_generate(
        self, batch_size: int, past_key_values: Any, *args: Any, **kwargs: Any
    ) -> None:
        # The other half of the cache holds one entry, the features, whatever the number of layers.
        if isinstance(past_key_values, EncoderDecoderCache):
            past_key_values = past_key_values.self_attention_cache
        super()._check_past_key_values_for_generate(batch_size, past_key_values, *args, **kwargs)

    def test_reverse_loading_mapping(self, *args: Any, **kwargs: Any) -> None:
        # The only renaming is a prefix of old SigLIP checkpoints, which their test leaves out.
        config, _ = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            model = model_class(config)
            with tempfile.TemporaryDirectory() as folder:
                model.save_pretrained(folder)
                assert set(load_file(f"{folder}/model.safetensors")) <= set(model.state_dict())
                tower, old = "vision_tower.", "vision_tower.vision_model."
                weights = {k.replace(tower, old): v for k, v in model.state_dict().items()}
                save_file({k: v.clone() for k, v in weights.items()}, f"{folder}/model.safetensors")
                loaded, report = model_class.from_pretrained(folder, output_loading_info=True)
            assert not report["missing_keys"]
            assert not report["unexpected_keys"]
            for name, weight in loaded.state_dict().items():
                assert torch.equal(weight, model.state_dict()[name]), name


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
