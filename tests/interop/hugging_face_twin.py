"""A PyTorch twin with the parameter names of transformers' `ResNetForImageClassification`."""

from torch import nn


class ConvLayer(nn.Module):
    def __init__(self, in_channels, channels, size=3, stride=1, is_last=False):
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, channels, size, stride, size // 2, bias=False)
        self.normalization = nn.BatchNorm2d(channels)
        self.is_last = is_last

    def forward(self, x):
        x = self.normalization(self.convolution(x))
        return x if self.is_last else x.relu()


class Layer(nn.Module):
    def __init__(self, in_channels, channels, stride, is_bottleneck, stride_on_first):
        super().__init__()
        if is_bottleneck:
            first, second = (stride, 1) if stride_on_first else (1, stride)
            convs = [
                ConvLayer(in_channels, channels // 4, 1, first),
                ConvLayer(channels // 4, channels // 4, 3, second),
                ConvLayer(channels // 4, channels, 1, is_last=True),
            ]
        else:
            convs = [
                ConvLayer(in_channels, channels, stride=stride),
                ConvLayer(channels, channels, is_last=True),
            ]
        is_identity = in_channels == channels and stride == 1
        self.shortcut = (
            nn.Identity()
            if is_identity
            else ConvLayer(in_channels, channels, 1, stride, is_last=True)
        )
        self.layer = nn.Sequential(*convs)

    def forward(self, x):
        return (self.layer(x) + self.shortcut(x)).relu()


class Stage(nn.Module):
    def __init__(self, in_channels, channels, stride, depth, *options):
        super().__init__()
        first = Layer(in_channels, channels, stride, *options)
        others = [Layer(channels, channels, 1, *options) for _ in range(depth - 1)]
        self.layers = nn.Sequential(first, *others)


class Container(nn.Module):
    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


class ResNet(nn.Module):
    def __init__(
        self, depths, hidden_sizes, num_classes, *, is_bottleneck=True, stride_on_first=False
    ):
        super().__init__()
        width = hidden_sizes[0] // (4 if is_bottleneck else 1)
        channels = [width, *hidden_sizes]
        stages = [
            Stage(
                channels[i], channels[i + 1], min(i + 1, 2), depth, is_bottleneck, stride_on_first
            )
            for i, depth in enumerate(depths)
        ]
        self.resnet = Container(
            embedder=Container(embedder=ConvLayer(3, width, 7, 2)),
            encoder=Container(stages=nn.ModuleList(stages)),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(hidden_sizes[-1], num_classes))

    def forward(self, x):
        x = nn.functional.max_pool2d(self.resnet.embedder.embedder(x), 3, 2, 1)
        for stage in self.resnet.encoder.stages:
            x = stage.layers(x)
        return self.classifier(x.mean((2, 3)))
