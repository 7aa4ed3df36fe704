"""Count what a line of code carries: syntax nodes, nested comprehensions, comments.

    python tests/measure_lines.py t2ilib/cascade notebooks
"""

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Measure:
    """Counts of some files.

    Attributes:
        lines: all lines. body_lines, nodes: lines of function bodies (of a notebook, all lines) that hold code, and the
            syntax nodes on them. nested: comprehensions inside comprehensions. comments: lines with a comment.
    """

    lines: int = 0
    body_lines: int = 0
    nodes: int = 0
    nested: int = 0
    comments: int = 0

    def __str__(self) -> str:
        per_line = self.nodes / max(1, self.body_lines)
        nested = 1000 * self.nested / max(1, self.lines)
        comments = 100 * self.comments / max(1, self.lines)
        return (f"{self.lines:6} lines{per_line:7.1f} nodes a line{nested:7.1f} nested per 1000"
                f"{comments:7.1f} comments per 100")


def measure(paths: list[Path]) -> Measure:
    """Return the counts of Python files."""
    total = Measure()
    for path in paths:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        total.lines += len(text.splitlines())
        total.comments += len(comment_lines(text))
        for node in ast.walk(tree):
            total.nested += isinstance(node, COMPREHENSIONS) and _holds_another(node)
        statements = tree.body if "notebooks" in path.parts else function_statements(tree)
        used = set()
        for statement in statements:
            for node in ast.walk(statement):
                total.nodes += 1
                if hasattr(node, "lineno"):
                    used.add(node.lineno)
        total.body_lines += len(used)
    return total


def function_statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements of all functions, docstrings left out, those of inner functions with the outer one."""
    inside: set[int] = set()
    for node in ast.walk(tree):  # breadth first: an outer function comes before its inner ones
        if not isinstance(node, FUNCTIONS) or id(node) in inside:
            continue
        inside.update(id(inner) for inner in ast.walk(node))
        body = node.body
        if ast.get_docstring(node) is not None:
            body = body[1:]
        yield from body


def comment_lines(text: str) -> set[int]:
    """Return the numbers of the lines that hold a comment."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0] for token in tokens if token.type == tokenize.COMMENT}


def _holds_another(node: ast.AST) -> bool:
    return any(isinstance(inner, COMPREHENSIONS) for inner in ast.walk(node) if inner is not node)


if __name__ == "__main__":
    for name in sys.argv[1:] or ["t2ilib", "notebooks"]:
        path = Path(name)
        print(f"{name:28}{measure(sorted(path.rglob('*.py')) if path.is_dir() else [path])}")
