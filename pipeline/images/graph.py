"""The hierarchy as a picture: Mermaid text, or Graphviz' dot text."""

from __future__ import annotations

from pipeline.images.hierarchy import Hierarchy


def draw_mermaid(hierarchy: Hierarchy) -> str:
    """A Mermaid flowchart: solid arrows from parent to child, dotted ones from an image to those that take files of it."""
    keys = {name: f"i{number}" for number, name in enumerate(hierarchy.names)}
    lines = ["flowchart LR"]
    for definition in hierarchy:
        key = keys[definition.name]
        lines.append(f'    {key}["{definition.name}"]' + (":::optional" if definition.optional else ""))
        if definition.base:
            lines.append(f'    {key}base(["{definition.base}"]) --> {key}')
        else:
            lines.append(f"    {keys[definition.parent]} --> {key}")
        lines += [
            f"    {keys[used]} -.-> {key}" if used in keys else f'    {key}uses{number}(["{used}"]) -.-> {key}'
            for number, used in enumerate(definition.uses)
        ]
    lines.append("    classDef optional stroke-dasharray: 4")
    return "\n".join(lines)


def draw_dot(hierarchy: Hierarchy) -> str:
    """The same for Graphviz."""
    lines = ["digraph images {", "  rankdir=LR; node [shape=box, fontname=sans-serif];"]
    for definition in hierarchy:
        style = " [style=dashed]" if definition.optional else ""
        lines.append(f'  "{definition.name}"{style};')
        source = definition.parent or definition.base
        if definition.base:
            lines.append(f'  "{source}" [shape=ellipse];')
        lines.append(f'  "{source}" -> "{definition.name}";')
        lines += [f'  "{used}" -> "{definition.name}" [style=dotted];' for used in definition.uses]
    return "\n".join([*lines, "}"])
