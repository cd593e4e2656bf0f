"""CUDA kernels as the GPU runs them: their instructions, read from a compiled file, and ways through them."""

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

RARE = "PMTRIG"  # the instruction that STN_RARE (csrc/cuda/rare.h) leaves where it marks a way


def disassembler():
    """nvdisasm, from the wheel nvidia-cuda-nvdisasm or a toolkit; skips where there is none."""
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations or () if spec else ()
    wheels = [path for folder in folders for path in sorted(Path(folder).glob("*/bin/nvdisasm"))]
    found = [*wheels, shutil.which("nvdisasm"), shutil.which("/usr/local/cuda/bin/nvdisasm")]
    tool = next(filter(None, found), None)
    if tool is None:
        pytest.skip("no nvdisasm: pip install nvidia-cuda-nvdisasm")
    return tool


@dataclass
class Instruction:
    predicate: str | None
    opcode: str
    arguments: str


@dataclass(eq=False)
class Block:
    """Instructions that are executed one after another, and the blocks that may follow."""

    code: list[Instruction] = field(default_factory=list)
    next: list["Block"] = field(default_factory=list)

    def is_rare(self):
        return any(i.opcode == RARE for i in self.code)


@dataclass
class Way:
    """The longest way from a place to another that enters no rare block, with each loop on it left out:
    a loop has a way of its own, once through it."""

    code: list[Instruction]
    loops: list["Way"]

    def count(self, pattern=""):
        """Its instructions whose opcode matches, without those of its loops."""
        return sum(1 for i in self.code if re.match(pattern, i.opcode))

    def length(self):
        """Its instructions, once through each loop."""
        return len(self.code) + sum(loop.length() for loop in self.loops)

    def all_loops(self):
        """Its loops and theirs."""
        return [way for loop in self.loops for way in (loop, *loop.all_loops())]


def disassemble(cubin):
    """Each kernel's first block, by its mangled name."""
    text = subprocess.check_output([disassembler(), "-c", cubin], text=True)
    sections, lines = {}, None
    for line in text.splitlines():
        if found := re.match(r"\.text\.(\S+):", line):
            lines = sections.setdefault(found[1], [])
        elif lines is not None:
            lines.append(line)
    return {name: blocks_of(lines) for name, lines in sections.items()}


ENDS = r"BRA|BRX|JMP|JMX|EXIT|RET|KILL"


def blocks_of(lines):
    """The first of a kernel's blocks, which are linked to the others."""
    blocks, labels = [Block()], {}
    for line in lines:
        if found := re.match(r"(\S+):\s*$", line):
            if blocks[-1].code:
                blocks.append(Block())
            labels[found[1]] = blocks[-1]
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;", line):
            blocks[-1].code.append(Instruction(*found.groups()))
            if re.match(ENDS, found[2]):
                blocks.append(Block())
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        link(block, after, labels)
    return blocks[0]


def link(block, after, labels):
    last = block.code[-1] if block.code else None
    ends = last is not None and re.match(ENDS, last.opcode)
    if ends and re.match("BRA|JMP", last.opcode):
        block.next.append(labels[re.search(r"`\((\S+?)\)", last.arguments)[1]])
    # A branch's condition is its predicate or its first argument.
    conditional = ends and (last.predicate or re.match(r"!?U?P\d|\.?DIV|\.?CONV", last.arguments))
    if after is not None and (not ends or conditional):
        block.next.append(after)


def reachable(first):
    """The blocks behind a block that are not rare, each before those that follow it but for loops."""
    order, seen, stack = [], {first}, [(first, iter(first.next))]
    while stack:
        block, following = stack[-1]
        for other in following:
            if other not in seen and not other.is_rare():
                seen.add(other)
                stack.append((other, iter(other.next)))
                break
        else:
            order.append(block)
            stack.pop()
    return order[::-1]


def natural_loops(order):
    """By their first blocks, the sets of blocks of the loops among `order`."""
    number = {block: k for k, block in enumerate(order)}
    before = {block: [] for block in order}
    for block in order:
        for other in block.next:
            if other in number:
                before[other].append(block)
    dominators, last = {order[0]: {order[0]}}, None
    while dominators != last:
        last = dict(dominators)
        for block in order[1:]:
            known = [dominators[b] for b in before[block] if b in dominators]
            dominators[block] = {block} | set.intersection(*known)
    loops = {}
    for block in order:
        for header in block.next:
            if header in number and header in dominators[block]:
                body, work = loops.setdefault(header, {header}), [block]
                while work:
                    b = work.pop()
                    if b not in body:
                        body.add(b)
                        work += before[b]
    return loops


def longest_way(first, within, loops, order, header=None):
    """From `first` to where it leaves `within` for good: to an exit, or back to its loop's header. Loops on
    the way count as once through them."""
    inner = {h: body for h, body in loops.items() if h is not header and h in within and body <= within}
    outermost = {h: b for h, b in inner.items() if not any(h in o and h is not g for g, o in inner.items())}
    nested = {h: longest_way(h, body, loops, order, header=h) for h, body in outermost.items()}
    best = {}  # block: (instructions from it on, the blocks of that way)
    for block in reversed([b for b in order if b in within]):
        if block in outermost:
            length, body = nested[block].length(), outermost[block]
            following = [o for b in body for o in b.next if o not in body]
        elif any(block in body for body in outermost.values()):
            continue
        else:
            length, following = len(block.code), block.next
        ways = [best[o] for o in following if o in best and o is not header]
        rest, blocks = max(ways, key=lambda way: way[0], default=(0, []))
        best[block] = length + rest, [block, *blocks]
    blocks = best[first][1]
    code = [i for block in blocks if block not in outermost for i in block.code]
    return Way(code, [nested[block] for block in blocks if block in outermost])


def hot_way(entry):
    """The longest way through a kernel that enters no rare block."""
    order = reachable(entry)
    return longest_way(entry, set(order), natural_loops(order), order)
