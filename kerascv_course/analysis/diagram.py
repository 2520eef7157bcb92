"""The block diagram of a network (report 000, question 1), from the structure of its graph, as text and as SVG; and its table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape

from kerascv_course.analysis.counting import total
from kerascv_course.analysis.graph import Graph, GraphNode, Segment, segments
from kerascv_course.analysis.printing import shape_text
from kerascv_course.analysis.summary import LayerSummary, Summary
from kerascv_course.core.tables import text_table

__all__ = ["BlockCount", "DiagramBlock", "block_diagram", "block_table", "blocks_text", "diagram_svg", "diagram_text"]

_COLORS = {"conv": "#cfe2f3", "pool": "#f9cb9c", "block": "#d9ead3", "dense": "#ead1dc", "other": "#eeeeee"}


@dataclass(frozen=True)
class DiagramBlock:
    """One box.

    Attributes:
        label: such as ``Conv 7×7+BN+ReLU``, ``ResBlock`` or ``ResBlock-D`` (downsampling).
        shape: of its output, channels first.
        repeat: number of consecutive equal boxes.
        kind: "conv", "pool", "block", "dense" or "other"; decides the color of the box.
    """

    label: str
    shape: tuple[int, ...]
    repeat: int = 1
    kind: str = "other"

    def __str__(self) -> str:
        times = f" ×{self.repeat}" if self.repeat > 1 else ""
        return f"{self.label}{times} {shape_text(self.shape) if self.shape else ''}".rstrip()


@dataclass(frozen=True)
class BlockCount:
    """One box of the diagram in numbers; padding, flattening and the like belong to the box after them.

    Attributes:
        index: from 1; the input is 1.
        label, shape: text of the box and shape of its output, as in `DiagramBlock`.
        layers: names of the first and the last layer.
        trainable, frozen: numbers of parameters of the layers in the box.
        macs: multiply-accumulates for one image; None: not known.
    """

    index: int
    label: str
    shape: tuple[int, ...]
    layers: tuple[str, str]
    trainable: int
    frozen: int
    macs: int | None


def block_table(summary: Summary) -> tuple[BlockCount, ...]:
    """Parameters and MACs of every block (report 000, question 4); they sum to the network's totals."""
    graph = summary.graph
    rows = {id(node): row for node, row in zip(graph.nodes, summary.rows, strict=True)}
    counts: list[BlockCount] = []
    waiting: list[LayerSummary] = []
    parts = list(_boxes(graph, segments(graph)))
    for at, (box, nodes) in enumerate(parts):
        waiting += [rows[id(node)] for node in nodes]
        if box is None and at + 1 < len(parts):
            continue
        label, shape = (box.label, box.shape) if box else (waiting[-1].type, waiting[-1].output_shape or ())
        names = (waiting[0].name, waiting[-1].name)
        trainable, frozen = sum(r.trainable for r in waiting), sum(r.frozen for r in waiting)
        counts.append(BlockCount(len(counts) + 1, label, shape, names, trainable, frozen, total(r.macs for r in waiting)))
        waiting = []
    return tuple(counts)


def blocks_text(summary: Summary) -> str:
    """`block_table` as aligned text, with the totals."""
    rows: list[tuple[object, ...]] = [
        (b.index, b.label, shape_text(b.shape), " … ".join(dict.fromkeys(b.layers)), b.trainable, b.frozen, b.macs)
        for b in block_table(summary)
    ]
    rows.append(("", "total", "", "", summary.trainable, summary.frozen, summary.macs))
    return text_table(("#", "block", "output", "layers", "trainable", "frozen", "MACs"), rows, align="rlllrrr")


def block_diagram(summary: Summary) -> tuple[DiagramBlock, ...]:
    """The boxes of a network's diagram, with input and output; equal consecutive blocks are merged into one."""
    graph = summary.graph
    boxes: list[DiagramBlock] = []
    for box, _ in _boxes(graph, segments(graph)):
        if box is None:
            continue
        if boxes and replace(boxes[-1], repeat=1) == box and box.kind == "block":
            boxes[-1] = replace(boxes[-1], repeat=boxes[-1].repeat + 1)
        else:
            boxes.append(box)
    return (*boxes, DiagramBlock("Output", ()))


def diagram_text(summary: Summary, width: int = 100) -> str:
    """The diagram as text: boxes joined by arrows, in lines of at most `width` characters if possible."""
    lines = [""]
    for at, box in enumerate(block_diagram(summary)):
        text = str(box) if at == 0 else f" → {box}"
        if lines[-1] and len(lines[-1]) + len(text) > width:
            lines.append("  " + text.lstrip())
        else:
            lines[-1] += text
    return "\n".join(lines)


def diagram_svg(summary: Summary) -> str:
    """The diagram as a self-contained SVG image, top to bottom."""
    boxes = block_diagram(summary)
    width, height, gap = 300, 34, 18
    total = len(boxes) * (height + gap) - gap + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width + 20}" height="{total}" viewBox="0 0 {width + 20} {total}" '
        'font-family="sans-serif" font-size="13">',
        f"<title>{escape(summary.name)}</title>",
        '<defs><marker id="a" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">'
        '<path d="M0,0 L6,3 L0,6 z"/></marker></defs>',
    ]
    for at, box in enumerate(boxes):
        y = 10 + at * (height + gap)
        times = f" ×{box.repeat}" if box.repeat > 1 else ""
        shape = f' <tspan fill="#555">{escape(shape_text(box.shape))}</tspan>' if box.shape else ""
        parts.append(
            f'<rect x="10" y="{y}" width="{width}" height="{height}" rx="6" fill="{_COLORS[box.kind]}" stroke="#444"/>'
            f'<text x="{10 + width // 2}" y="{y + 22}" text-anchor="middle">{escape(box.label + times)}{shape}</text>'
        )
        if at:
            parts.append(
                f'<line x1="{10 + width // 2}" y1="{y - gap}" x2="{10 + width // 2}" y2="{y - 2}" '
                'stroke="#444" marker-end="url(#a)"/>'
            )
    return "\n".join([*parts, "</svg>"])


def _boxes(graph: Graph, chain: list[Segment]) -> Iterator[tuple[DiagramBlock | None, tuple[GraphNode, ...]]]:
    """Boxes with their nodes; None instead of a box for padding, flattening and the like."""
    at = 0
    while at < len(chain):
        segment = chain[at]
        node = segment.nodes[0]
        if segment.kind != "layer" and len(segment.nodes) > len(graph.nodes) // 2 > 4:
            # a skip connection spans the whole network, as in a U-Net: show its layers instead of a single box
            yield from _boxes(graph, [Segment("layer", (n,)) for n in segment.nodes])
        elif segment.kind != "layer":
            box = DiagramBlock(_block_name(graph, segment), graph.channels_first_shape(segment.nodes[-1]), kind="block")
            yield box, segment.nodes
        elif node.kind in ("conv", "conv_transpose", "dense"):
            names, nodes = [_layer_name(node)], [node]
            while at + 1 < len(chain) and chain[at + 1].kind == "layer":
                after = chain[at + 1].nodes[0]
                if after.kind in ("norm", "activation") or after.kind == "affine":
                    names.append("BN" if after.kind == "norm" else _activation(after))
                elif after.kind not in ("crop", "transpose"):
                    break
                nodes.append(after)
                at += 1
            label = "+".join(n for n in names if n)
            box = DiagramBlock(label, graph.channels_first_shape(nodes[-1]), kind="dense" if node.kind == "dense" else "conv")
            yield box, tuple(nodes)
        elif label := _layer_name(node):
            box = DiagramBlock(label, graph.channels_first_shape(node), kind="pool" if "pool" in node.kind else "other")
            yield box, (node,)
        else:
            yield None, (node,)
        at += 1


def _activation(node: GraphNode) -> str:
    if node.kind == "affine":
        return ""
    return {"relu": "ReLU", "softmax": "softmax"}.get(node.mode, node.mode or node.type)


def _layer_name(node: GraphNode) -> str:
    window = node.window
    if node.kind == "input":
        return "Input"
    if node.kind == "conv" and window:
        depthwise = node.groups > 1 and node.channels is not None and node.groups == node.channels[0]
        return f"{'Depthwise conv' if depthwise else 'Conv'} {shape_text(window.kernel)}"
    if node.kind == "conv_transpose" and window:
        return f"Transposed conv {shape_text(window.kernel)}"
    if node.kind in ("pool", "global_pool"):
        return {"max": "max pool", "average": "average pool"}.get(node.mode, f"{node.mode} pool")
    if node.kind in ("norm", "activation"):
        return "BN" if node.kind == "norm" else _activation(node)
    plain = {"dense": "FC", "resize": "upsample", "concat": "concatenate", "merge": node.type, "matmul": "matrix product"}
    if node.kind in plain:
        return plain[node.kind]
    if node.kind == "identity":
        return "dropout" if "Dropout" in node.type else ""
    return node.type if node.kind in ("unknown", "move") else ""


def _block_name(graph: Graph, segment: Segment) -> str:
    first, last = segment.nodes[0], segment.nodes[-1]
    name = {"residual": "ResBlock", "inception": "Inception", "dense": "DenseLayer"}.get(segment.kind, "Branches")
    before, after = graph.inp(first).shape, graph.out(last).shape
    axes = slice(1, -1) if graph.channels_last else slice(2, None)
    return name + ("-D" if len(before) == len(after) and after[axes] < before[axes] else "")
