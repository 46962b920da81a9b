"""The backbones that have a name: one visible row each, any other timm or torchvision name beside them.

A row says who builds the network, what it was trained on and with which input, who described it, and how large it is, as
printed and as counted. Nothing is built here; `learn.networks` does that.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from thawline.learn.networks import NO_AUXILIARY, Architecture, Triple, describe_elsewhere
from thawline.types import Interpolation

HALF: tuple[Triple, Triple] = ((0.5,) * 3, (0.5,) * 3)
IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY_1024: tuple[Triple, Triple] = ((0.5,) * 3, (1 / 2048,) * 3)  # TorchXRayVision's -1024 to 1024

IN1K, IN21K = "ImageNet-1k", "ImageNet-21k, then ImageNet-1k"
APACHE, BSD, MIT = "Apache-2.0", "BSD-3-Clause", "MIT"
NO_WEIGHTS = "none at hand"
RADIMAGENET_LICENCE = "CC-BY-4.0, as the RSNA's registry of models says; ask its authors before commercial use"
DINOV3_LICENCE = "DINOv3 License: terms to be accepted, military and some other uses forbidden"
RADIMAGENET_INPUT = (
    "values from -1 to 1 as in its authors' example for PyTorch; their code for Keras subtracts ImageNet's means instead, "
    "so that the description beside a file decides"
)
CHESTXRAY14, RADIMAGENET = "ChestX-ray14 (NIH)", "RadImageNet"
FILMS = "ChestX-ray14 (NIH), PadChest, CheXpert, MIMIC-CXR, Open-I, RSNA Pneumonia"
LVD142M, LVD1689M = "LVD-142M (web images, ImageNet-21k among them)", "LVD-1689M (web images)"
DASHES = str.maketrans("", "", "-_ .")

LECUN, SHIN = "LeCun et al. 1998, Proc. IEEE 86:2278", "Shin et al. 2016, IEEE TMI 35:1285"
KRIZHEVSKY, JIA = "Krizhevsky et al. 2012, NeurIPS", "Jia et al. 2014, ACM Multimedia"
SERMANET, SIMONYAN = "Sermanet et al. 2014, ICLR", "Simonyan and Zisserman 2015, ICLR"
SZEGEDY_1, IOFFE = "Szegedy et al. 2015, CVPR", "Ioffe and Szegedy 2015, ICML"
SZEGEDY_3, SZEGEDY_4 = "Szegedy et al. 2016, CVPR", "Szegedy et al. 2017, AAAI"
HE_1, HE_2, HUANG = "He et al. 2016, CVPR", "He et al. 2016, ECCV", "Huang et al. 2017, CVPR"
HOWARD_1, SANDLER = "Howard et al. 2017, arXiv:1704.04861", "Sandler et al. 2018, CVPR"
HOWARD_3, CHOLLET = "Howard et al. 2019, ICCV", "Chollet 2017, CVPR"
REDMON_2, REDMON_3 = "Redmon and Farhadi 2017, CVPR", "Redmon and Farhadi 2018, arXiv:1804.02767"
RAJPURKAR, IANDOLA = "Rajpurkar et al. 2017, arXiv:1711.05225", "Iandola et al. 2016, arXiv:1602.07360"
TAN_1, LIU_R = "Tan and Le 2019, ICML", "Liu 2020, EfficientNet-Lite, TensorFlow blog"
TAN_2, LIU_C = "Tan and Le 2021, ICML", "Liu et al. 2022, CVPR"
DOSOVITSKIY, LIU_S = "Dosovitskiy et al. 2021, ICLR; Steiner et al. 2022, TMLR", "Liu et al. 2021, ICCV"
OQUAB, SIMEONI = "Oquab et al. 2024, TMLR", "Siméoni et al. 2025, arXiv:2508.10104"
CHEN = "Chen et al. 2022, CVPR"
MEI, COHEN = "Mei et al. 2022, Radiol. Artif. Intell. 4:e210315", "Cohen et al. 2022, MIDL"


@dataclasses.dataclass(frozen=True, slots=True)
class Backbone:
    """One row of the table.

    ``parameters`` counts the whole network with its own classifier, ``feature_parameters`` what is left without the fully
    connected part, ``layers`` those with weights on the longest way through it; ``published`` is the first as its authors,
    or those of the weights, print it. ``licence`` and ``pretrained_on`` are those of the default weights. ``note`` says
    where something differs from what is printed, or limits its use; without ``on_hub`` the
    builder's library would fetch other weights than these.
    """

    architecture: Architecture
    family: str
    year: int
    citation: str
    published: str
    parameters: int
    feature_parameters: int
    layers: int
    licence: str = NO_WEIGHTS
    pretrained_on: str = NO_WEIGHTS
    aliases: tuple[str, ...] = ()
    note: str = ""
    on_hub: bool = True

    @property
    def name(self) -> str:
        """The name that options and reports have."""
        return self.architecture.name

    @property
    def is_fetched(self) -> bool:
        """Whether the builder's library fetches the default weights."""
        return self.on_hub and self.licence != NO_WEIGHTS

    def names(self) -> tuple[str, ...]:
        """All names that it goes by, its own first, the builder's last."""
        return (self.name, *self.aliases, self.architecture.model.partition(".")[0])

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, the architecture's fields among the others."""
        return {**self.architecture.to_json(), **dataclasses.asdict(self), "architecture": self.architecture.model}


def _timm(
    model: str,
    size_px: int = 224,
    norm: tuple[Triple, Triple] = IMAGENET,
    interpolation: Interpolation = "bicubic",
    **options: Any,
) -> Architecture:
    return Architecture("", "timm", model, size_px, *norm, interpolation, options)


def _torchvision(
    model: str, size_px: int = 224, norm: tuple[Triple, Triple] = IMAGENET, **options: Any
) -> Architecture:
    return Architecture("", "torchvision", model, size_px, *norm, "bilinear", options)


def _own(model: str, size_px: int) -> Architecture:
    return Architecture("", "thawline", model, size_px, *HALF, "bilinear")


def _row(name: str, architecture: Architecture, *facts: Any, **more: Any) -> Backbone:
    return Backbone(dataclasses.replace(architecture, name=name), *facts, **more)


# fmt: off
BACKBONES: tuple[Backbone, ...] = (
    # name, how it is built, family, year, citation, parameters as printed, as counted, without the fully connected part,
    # layers, licence of the weights, what they were trained on
    _row("efficientnet_lite0", _timm("tf_efficientnet_lite0", 224, HALF),
         "EfficientNet-Lite", 2020, LIU_R, "4.7M", 4_652_008, 3_371_008, 50, APACHE, IN1K),
    _row("efficientnet_lite1", _timm("tf_efficientnet_lite1", 240, HALF),
         "EfficientNet-Lite", 2020, LIU_R, "5.4M", 5_416_680, 4_135_680, 65, APACHE, IN1K),
    _row("efficientnet_lite2", _timm("tf_efficientnet_lite2", 260, HALF),
         "EfficientNet-Lite", 2020, LIU_R, "6.1M", 6_092_072, 4_811_072, 65, APACHE, IN1K),
    _row("efficientnet_lite3", _timm("tf_efficientnet_lite3", 300, HALF, "bilinear"),
         "EfficientNet-Lite", 2020, LIU_R, "8.2M", 8_197_096, 6_916_096, 74, APACHE, IN1K),
    _row("efficientnet_lite4", _timm("tf_efficientnet_lite4", 380, HALF, "bilinear"),
         "EfficientNet-Lite", 2020, LIU_R, "13.0M", 13_006_568, 11_725_568, 92, APACHE, IN1K),
    _row("lenet5", _own("lenet5", 32),
         "LeNet", 1998, LECUN, "60,000", 60_850, 1_716, 5, aliases=("lenet",),
         note="a linear output of 850 parameters stands for fixed radial functions; takes the mean of colours; "
              "its two subsampling layers have weights too, so that 7 layers are quoted as well"),
    _row("cifarnet", _own("cifarnet", 32), "CifarNet", 2014, SHIN, "0.15M", 145_578, 79_328, 5),
    _row("alexnet", _torchvision("alexnet"),
         "AlexNet", 2012, KRIZHEVSKY, "61.1M", 61_100_840, 2_469_696, 8, BSD, IN1K,
         note="torchvision's, without groups and normalisation, with fewer filters than the paper; caffenet is "
              "nearer to it"),
    _row("caffenet", _own("caffenet", 227),
         "AlexNet", 2014, JIA, "61.0M", 60_965_224, 2_334_080, 8, aliases=("bvlc_reference_caffenet",)),
    _row("overfeat", _own("overfeat_fast", 231),
         "OverFeat", 2013, SERMANET, "145M", 145_920_872, 15_987_584, 8, note="the printed count is rounded down"),
    _row("vgg16", _torchvision("vgg16"), "VGG", 2014, SIMONYAN, "138M", 138_357_544, 14_714_688, 16, BSD, IN1K),
    _row("vgg19", _torchvision("vgg19"), "VGG", 2014, SIMONYAN, "144M", 143_667_240, 20_024_384, 19, BSD, IN1K),
    _row("inception1", _torchvision("googlenet", 224, HALF, **NO_AUXILIARY),
         "Inception", 2014, SZEGEDY_1, "6.6M", 6_624_904, 5_599_904, 22, BSD, IN1K, aliases=("inception_v1",),
         note="torchvision's, with batch normalisation and 3 x 3 for 5 x 5 kernels, without the two auxiliary "
              "classifiers"),
    _row("inception2", _own("inception2", 224),
         "Inception", 2015, IOFFE, "11.3M", 11_295_240, 10_270_240, 34, aliases=("bn-inception", "inception_v2")),
    _row("inception3", _timm("inception_v3.tv_in1k", 299, HALF),
         "Inception", 2015, SZEGEDY_3, "23.8M", 23_834_568, 21_785_568, 48, APACHE, IN1K),
    _row("inception4", _timm("inception_v4.tf_in1k", 299, HALF),
         "Inception", 2016, SZEGEDY_4, "42.7M", 42_679_816, 41_142_816, 76, APACHE, IN1K),
    _row("inception_resnet2", _timm("inception_resnet_v2.tf_in1k", 299, HALF),
         "Inception-ResNet", 2016, SZEGEDY_4, "55.8M", 55_843_464, 54_306_464, 176, APACHE, IN1K,
         aliases=("inception-resnet",)),
    _row("resnet18", _timm("resnet18.tv_in1k", 224, IMAGENET, "bilinear"),
         "ResNet", 2015, HE_1, "11.7M", 11_689_512, 11_176_512, 18, BSD, IN1K),
    _row("resnet34", _timm("resnet34.tv_in1k", 224, IMAGENET, "bilinear"),
         "ResNet", 2015, HE_1, "21.8M", 21_797_672, 21_284_672, 34, BSD, IN1K),
    _row("resnet50", _timm("resnet50.tv_in1k", 224, IMAGENET, "bilinear"),
         "ResNet", 2015, HE_1, "25.6M", 25_557_032, 23_508_032, 50, BSD, IN1K),
    _row("resnet101", _timm("resnet101.tv_in1k", 224, IMAGENET, "bilinear"),
         "ResNet", 2015, HE_1, "44.5M", 44_549_160, 42_500_160, 101, BSD, IN1K),
    _row("resnet152", _timm("resnet152.tv_in1k", 224, IMAGENET, "bilinear"),
         "ResNet", 2015, HE_1, "60.2M", 60_192_808, 58_143_808, 152, BSD, IN1K),
    _row("resnet50v2", _timm("resnetv2_50.a1h_in1k", 224, HALF),
         "ResNetV2", 2016, HE_2, "25.5M", 25_549_352, 23_500_352, 50, APACHE, IN1K),
    _row("resnet101v2", _timm("resnetv2_101.a1h_in1k", 224, HALF),
         "ResNetV2", 2016, HE_2, "44.5M", 44_541_480, 42_492_480, 101, APACHE, IN1K),
    _row("resnet152v2", _timm("resnetv2_152", 224, HALF),
         "ResNetV2", 2016, HE_2, "60.2M", 60_185_128, 58_136_128, 152,
         note="timm has no weights for it"),
    _row("densenet121", _timm("densenet121.tv_in1k"),
         "DenseNet", 2016, HUANG, "8.0M", 7_978_856, 6_953_856, 121, APACHE, IN1K),
    _row("densenet169", _timm("densenet169.tv_in1k"),
         "DenseNet", 2016, HUANG, "14.1M", 14_149_480, 12_484_480, 169, APACHE, IN1K),
    _row("densenet201", _timm("densenet201.tv_in1k"),
         "DenseNet", 2016, HUANG, "20.0M", 20_013_928, 18_092_928, 201, APACHE, IN1K),
    _row("chexnet", _torchvision("densenet121", num_classes=14),
         "DenseNet", 2017, RAJPURKAR, "7.0M", 6_968_206, 6_953_856, 121, NO_WEIGHTS, CHESTXRAY14,
         note="DenseNet121 with 14 findings of films; bring a published file with its description"),
    _row("torchxrayvision_densenet121", _torchvision("densenet121", 224, GREY_1024, num_classes=18),
         "DenseNet", 2020, COHEN, "7.0M", 6_972_306, 6_953_856, 121, APACHE, FILMS, on_hub=False,
         aliases=("xrv_densenet121", "densenet121-res224-all"),
         note="films only; the published file takes one channel"),
    _row("radimagenet_resnet50", _torchvision("resnet50", 224, HALF),
         "ResNet", 2022, MEI, "25.6M", 25_557_032, 23_508_032, 50, RADIMAGENET_LICENCE, RADIMAGENET, on_hub=False,
         note=RADIMAGENET_INPUT),
    _row("radimagenet_densenet121", _torchvision("densenet121", 224, HALF),
         "DenseNet", 2022, MEI, "8.0M", 7_978_856, 6_953_856, 121, RADIMAGENET_LICENCE, RADIMAGENET, on_hub=False,
         note=RADIMAGENET_INPUT),
    _row("radimagenet_inception3", _torchvision("inception_v3", 299, HALF, **NO_AUXILIARY),
         "Inception", 2022, MEI, "23.8M", 23_834_568, 21_785_568, 48, RADIMAGENET_LICENCE, RADIMAGENET, on_hub=False,
         note=RADIMAGENET_INPUT),
    _row("mobilenet1", _timm("mobilenetv1_100.ra4_e3600_r224_in1k", 224, HALF),
         "MobileNet", 2017, HOWARD_1, "4.2M", 4_231_976, 3_206_976, 28, APACHE, IN1K,
         aliases=("mobilenet", "mobilenetv1")),
    _row("mobilenet2", _timm("mobilenetv2_100.ra_in1k"),
         "MobileNet", 2018, SANDLER, "3.5M", 3_504_872, 2_223_872, 53, APACHE, IN1K, aliases=("mobilenetv2",)),
    _row("mobilenet3", _timm("mobilenetv3_large_100.ra_in1k"),
         "MobileNet", 2019, HOWARD_3, "5.4M", 5_483_032, 4_202_032, 64, APACHE, IN1K,
         aliases=("mobilenetv3", "mobilenet3_large"), note="the printed count is rounded down"),
    _row("mobilenet3_small", _timm("mobilenetv3_small_100.lamb_in1k"),
         "MobileNet", 2019, HOWARD_3, "2.5M", 2_542_856, 1_517_856, 54, APACHE, IN1K, aliases=("mobilenetv3_small",)),
    _row("xception", _timm("legacy_xception.tf_in1k", 299, HALF),
         "Xception", 2016, CHOLLET, "22,855,952", 22_855_952, 20_806_952, 71, APACHE, IN1K),
    _row("darknet19", _own("darknet19", 224),
         "DarkNet", 2016, REDMON_2, "20.8M", 20_842_376, 19_817_376, 19, aliases=("darknet",)),
    _row("darknet53", _timm("darknet53.c2ns_in1k", 256),
         "DarkNet", 2018, REDMON_3, "41.6M", 41_609_928, 40_584_928, 53, APACHE, IN1K),
    _row("squeezenet", _torchvision("squeezenet1_0"),
         "SqueezeNet", 2016, IANDOLA, "1,248,424", 1_248_424, 735_424, 18, BSD, IN1K),
    _row("efficientnet_b0", _timm("tf_efficientnet_b0.in1k", 224),
         "EfficientNet", 2019, TAN_1, "5.3M", 5_288_548, 4_007_548, 82, APACHE, IN1K, aliases=("efficientnet",)),
    _row("efficientnet_b1", _timm("tf_efficientnet_b1.in1k", 240),
         "EfficientNet", 2019, TAN_1, "7.8M", 7_794_184, 6_513_184, 116, APACHE, IN1K),
    _row("efficientnet_b2", _timm("tf_efficientnet_b2.in1k", 260),
         "EfficientNet", 2019, TAN_1, "9.2M", 9_109_994, 7_700_994, 116, APACHE, IN1K,
         note="the printed count is rounded up"),
    _row("efficientnet_b3", _timm("tf_efficientnet_b3.in1k", 300),
         "EfficientNet", 2019, TAN_1, "12M", 12_233_232, 10_696_232, 131, APACHE, IN1K),
    _row("efficientnet_b4", _timm("tf_efficientnet_b4.in1k", 380),
         "EfficientNet", 2019, TAN_1, "19M", 19_341_616, 17_548_616, 161, APACHE, IN1K),
    _row("efficientnet_b5", _timm("tf_efficientnet_b5.in1k", 456),
         "EfficientNet", 2019, TAN_1, "30M", 30_389_784, 28_340_784, 195, APACHE, IN1K),
    _row("efficientnet_b6", _timm("tf_efficientnet_b6.aa_in1k", 528),
         "EfficientNet", 2019, TAN_1, "43M", 43_040_704, 40_735_704, 225, APACHE, IN1K),
    _row("efficientnet_b7", _timm("tf_efficientnet_b7.aa_in1k", 600),
         "EfficientNet", 2019, TAN_1, "66M", 66_347_960, 63_786_960, 274, APACHE, IN1K),
    _row("efficientnetv2_s", _timm("tf_efficientnetv2_s.in21k_ft_in1k", 300, HALF),
         "EfficientNetV2", 2021, TAN_2, "22M", 21_458_488, 20_177_488, 171, APACHE, IN21K,
         aliases=("efficientnetv2",), note="the printed counts are rounded"),
    _row("efficientnetv2_m", _timm("tf_efficientnetv2_m.in21k_ft_in1k", 384, HALF),
         "EfficientNetV2", 2021, TAN_2, "54M", 54_139_356, 52_858_356, 246, APACHE, IN21K),
    _row("efficientnetv2_l", _timm("tf_efficientnetv2_l.in21k_ft_in1k", 384, HALF),
         "EfficientNetV2", 2021, TAN_2, "120M", 118_515_272, 117_234_272, 340, APACHE, IN21K,
         note="the printed counts are rounded"),
    _row("convnext_tiny", _timm("convnext_tiny.fb_in1k"),
         "ConvNeXt", 2022, LIU_C, "29M", 28_589_128, 27_820_128, 59, APACHE, IN1K,
         aliases=("convnext-t", "convnext")),
    _row("convnext_small", _timm("convnext_small.fb_in1k"),
         "ConvNeXt", 2022, LIU_C, "50M", 50_223_688, 49_454_688, 113, APACHE, IN1K, aliases=("convnext-s",)),
    _row("convnext_base", _timm("convnext_base.fb_in1k"),
         "ConvNeXt", 2022, LIU_C, "89M", 88_591_464, 87_566_464, 113, APACHE, IN1K, aliases=("convnext-b",)),
    _row("vit_tiny", _timm("vit_tiny_patch16_224.augreg_in21k_ft_in1k", 224, HALF),
         "ViT", 2020, DOSOVITSKIY, "5.7M", 5_717_416, 5_524_416, 50, APACHE, IN21K, aliases=("vit-t/16",)),
    _row("vit_small", _timm("vit_small_patch16_224.augreg_in21k_ft_in1k", 224, HALF),
         "ViT", 2020, DOSOVITSKIY, "22M", 22_050_664, 21_665_664, 50, APACHE, IN21K, aliases=("vit-s/16",)),
    _row("vit_base", _timm("vit_base_patch16_224.augreg2_in21k_ft_in1k", 224, HALF),
         "ViT", 2020, DOSOVITSKIY, "86M", 86_567_656, 85_798_656, 50, APACHE, IN21K, aliases=("vit-b/16", "vit"),
         note="86M as printed counts no classifier"),
    _row("dinov2_small", _timm("vit_small_patch14_dinov2.lvd142m", 224, img_size=224),
         "DINOv2", 2023, OQUAB, "21M", 21_628_800, 21_628_800, 49, APACHE, LVD142M,
         aliases=("dinov2_vits14", "dinov2"),
         note="its positions are resampled from 518 px; the printed count is rounded down"),
    _row("dinov2_base", _timm("vit_base_patch14_dinov2.lvd142m", 224, img_size=224),
         "DINOv2", 2023, OQUAB, "86M", 85_724_928, 85_724_928, 49, APACHE, LVD142M, aliases=("dinov2_vitb14",),
         note="its positions are resampled from 518 px; the printed count is rounded down"),
    _row("dinov3_small", _timm("vit_small_patch16_dinov3.lvd1689m", 256, dynamic_img_size=False),
         "DINOv3", 2025, SIMEONI, "21M", 21_586_944, 21_586_944, 49, DINOV3_LICENCE, LVD1689M,
         aliases=("dinov3_vits16", "dinov3"),
         note="the printed count is rounded down"),
    _row("dinov3_base", _timm("vit_base_patch16_dinov3.lvd1689m", 256, dynamic_img_size=False),
         "DINOv3", 2025, SIMEONI, "86M", 85_641_216, 85_641_216, 49, DINOV3_LICENCE, LVD1689M,
         aliases=("dinov3_vitb16",)),
    _row("mobile_former", _own("mobile_former", 224),
         "Mobile-Former", 2021, CHEN, "11.4M", 12_509_960, 8_006_560, 112,
         note="the one of 294 million multiplications; the paper leaves the inside of its dynamic ReLU open, which "
              "makes the difference"),
    _row("swin_tiny", _timm("swin_tiny_patch4_window7_224.ms_in1k"),
         "Swin", 2021, LIU_S, "28M", 28_288_354, 27_519_354, 53, MIT, IN1K, aliases=("swin-t", "swin")),
    _row("swin_small", _timm("swin_small_patch4_window7_224.ms_in1k"),
         "Swin", 2021, LIU_S, "50M", 49_606_258, 48_837_258, 101, MIT, IN1K, aliases=("swin-s",)),
    _row("swin_base", _timm("swin_base_patch4_window7_224.ms_in1k"),
         "Swin", 2021, LIU_S, "88M", 87_768_224, 86_743_224, 101, MIT, IN1K, aliases=("swin-b",)),
)
# fmt: on
DEFAULT_BACKBONE = BACKBONES[0].name


def find_row(name: str) -> Backbone | None:
    """Return the row of a name, an alias or a builder's own name, in any case and with any dashes or spaces, or None."""
    return _index_rows().get(_plain(name))


def find_architecture(name: str) -> Architecture:
    """Return the architecture of a row, or of a network that timm or torchvision has. Raises OptionError for neither."""
    row = find_row(name)
    return row.architecture if row else describe_elsewhere(name, [each.name for each in BACKBONES])


@functools.cache
def _index_rows() -> dict[str, Backbone]:
    """Return the rows by all their names; a name that several have is the first one's."""
    return {_plain(name): row for row in reversed(BACKBONES) for name in row.names()}


def _plain(name: str) -> str:
    return name.lower().translate(DASHES)
