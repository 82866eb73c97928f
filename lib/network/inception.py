"""Inception v3 with every ReLU and pool as a module.

torchvision's Inception v3 (Szegedy et al. 2016) calls its ReLUs and most of its pools as functions, so
module hooks miss 25,408 of the 27,712 features of Table 1, and guided backpropagation by hooks equals the
plain gradient. Here the same blocks call modules instead, in the same order: outputs and state_dict are
bit-identical to torchvision's.
"""

import torch
from torch import nn
from torchvision.models import inception as tv

AUX_MAP_PX = 17  # edge of the map the auxiliary head was designed for (299 px input)


class ConvBlock(tv.BasicConv2d):
    def __init__(self, in_channels: int, out_channels: int, **kwargs):
        super().__init__(in_channels, out_channels, **kwargs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.bn(self.conv(x)))


class BlockA(tv.InceptionA):
    def __init__(self, in_channels: int, pool_features: int, conv_block=ConvBlock):
        super().__init__(in_channels, pool_features, conv_block)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)

    def _forward(self, x):
        return [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(self.pool(x)),
        ]


class BlockB(tv.InceptionB):
    def __init__(self, in_channels: int, conv_block=ConvBlock):
        super().__init__(in_channels, conv_block)
        self.pool = nn.MaxPool2d(3, stride=2)

    def _forward(self, x):
        return [
            self.branch3x3(x),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.pool(x),
        ]


class BlockC(tv.InceptionC):
    def __init__(self, in_channels: int, channels_7x7: int, conv_block=ConvBlock):
        super().__init__(in_channels, channels_7x7, conv_block)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)

    def _forward(self, x):
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        return [
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
            self.branch_pool(self.pool(x)),
        ]


class BlockD(tv.InceptionD):
    def __init__(self, in_channels: int, conv_block=ConvBlock):
        super().__init__(in_channels, conv_block)
        self.pool = nn.MaxPool2d(3, stride=2)

    def _forward(self, x):
        return [
            self.branch3x3_2(self.branch3x3_1(x)),
            self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))),
            self.pool(x),
        ]


class BlockE(tv.InceptionE):
    def __init__(self, in_channels: int, conv_block=ConvBlock):
        super().__init__(in_channels, conv_block)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)

    def _forward(self, x):
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return [
            self.branch1x1(x),
            torch.cat([self.branch3x3_2a(single), self.branch3x3_2b(single)], 1),
            torch.cat([self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)], 1),
            self.branch_pool(self.pool(x)),
        ]


class AuxiliaryHead(tv.InceptionAux):
    """The auxiliary classifier; for inputs under 299 px its map is pooled to the 5 x 5 its convolution needs.

    torchvision's own fails in training on inputs smaller than about 291 px.
    """

    def __init__(self, in_channels: int, num_classes: int, conv_block=ConvBlock):
        super().__init__(in_channels, num_classes, conv_block)
        self.pool = nn.AvgPool2d(5, stride=3)
        self.small_pool = nn.AdaptiveAvgPool2d(5)
        self.last_pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        x = self.pool(x) if min(x.shape[-2:]) >= AUX_MAP_PX else self.small_pool(x)
        return self.fc(torch.flatten(self.last_pool(self.conv1(self.conv0(x))), 1))


def inception_v3(n_classes: int) -> nn.Module:
    """torchvision's Inception3 (auxiliary head included, dropout 0.5) built from the blocks above."""
    blocks = [ConvBlock, BlockA, BlockB, BlockC, BlockD, BlockE, AuxiliaryHead]
    return tv.Inception3(n_classes, aux_logits=True, inception_blocks=blocks, init_weights=True)


def fold_input_transform(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State dict of the ImageNet Inception v3, changed to take ImageNet-normalised input.

    Those weights expect pixels scaled to [-1, 1]; torchvision rescales at run time (`transform_input`), a
    switch that a saved state dict lacks. The first convolution has no padding and is followed by batch norm,
    so the rescaling x_c -> a_c x_c + b_c folds into them exactly: weights times a_c, running mean minus
    sum(w_c b_c).
    """
    mean, sd = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    scale, shift = (sd / 0.5).view(3, 1, 1), ((mean - 0.5) / 0.5).view(3, 1, 1)
    state = dict(state)
    weight = state["Conv2d_1a_3x3.conv.weight"]  # [32, 3, 3, 3]
    state["Conv2d_1a_3x3.conv.weight"] = weight * scale
    running_mean = state["Conv2d_1a_3x3.bn.running_mean"]
    state["Conv2d_1a_3x3.bn.running_mean"] = running_mean - (weight * shift).sum((1, 2, 3))
    return state
