"""Changes the package in one place at a time, and counts the changes that a quick test notices.

    python tests/mutate.py [--number N] [--only TEXT]... [tests ...]

One process imports the backend and collects the tests. For each mutant it forks, puts the changed
code into the function, and runs the tests that reach the changed line until one fails: those first
whose names have failed most often, then those of different names. Lines that no test runs on this
backend are left out: others run them, as the coverage of all says. For each function and kind of
change, mutants.toml says how many mutants may survive, and why.
"""

import argparse
import ast
import collections
import copy
import gc
import inspect
import itertools
import json
import os
import pathlib
import signal
import sys
import tempfile
import time
import tomllib
import zlib

os.environ |= {"OMP_NUM_THREADS": "1", "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "torch")}

import coverage
import hypothesis
import pytest

import keras_unpatchify

HERE = pathlib.Path(__file__).parent
PACKAGE = pathlib.Path(keras_unpatchify.__file__).parent
QUICK = "not compile and not learns and not isolation and not thread"
SECONDS = 20  # of the processor, for the tests of a mutant, as long as they take without it
NOT_PUT = 3

SWAPS = [
    {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq},
    {ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In},
    {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult},
    {ast.Div: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And},
]
SWAPS = {old: new for table in SWAPS for old, new in table.items()}


def changed(node):
    """Copies of a node with one change each, `(kind, copy)`."""

    def but(**fields):
        new = copy.copy(node)
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in SWAPS:
        yield "operator", but(op=SWAPS[type(node.op)]())
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            ops = [*node.ops[:i], SWAPS[type(op)](), *node.ops[i + 1 :]]
            yield "comparison", but(ops=ops)
    if isinstance(node, ast.UnaryOp):
        yield "operator", node.operand
    if isinstance(node, ast.Constant) and not isinstance(
        node.value, (bytes, type(...), type(None))
    ):
        value = node.value
        kinds = {bool: lambda: not value, str: lambda: f"{value}_", int: lambda: value + 1}
        yield "constant", but(value=kinds.get(type(value), lambda: value + 1)())
    if isinstance(node, (ast.If, ast.IfExp, ast.While)):
        yield from (("test", but(test=ast.Constant(value))) for value in (True, False))
    if isinstance(node, ast.comprehension):
        for drop in node.ifs:
            yield "test", but(ifs=[x for x in node.ifs if x is not drop])
    if isinstance(node, ast.Call):
        for drop in node.keywords:
            yield "keyword", but(keywords=[x for x in node.keywords if x is not drop])
    if isinstance(node, (ast.Expr, ast.AugAssign, ast.Raise, ast.Continue)):
        yield "statement", ast.Pass()
    if isinstance(node, ast.Return) and ast.unparse(node) not in ("return", "return None"):
        yield "return", but(value=ast.Constant(None))


def text_of(*nodes):
    """The code of each node, of a long one the beginning, or what is about the first difference."""
    texts = [" ".join(ast.unparse(node).split("\n")[0].split()) for node in nodes]
    common = len(os.path.commonprefix(texts)) if len(texts) > 1 else 0  # noqa: RUF071 - letters
    start = max(0, common - 60)
    return [text[start : start + 80] for text in texts]


class Mutant:
    """A module with one node of a function replaced; the statement that holds it names it too."""

    def __init__(self, path, tree, function, statement, node, kind, new):
        self.path, self.tree, self.function, self.node, self.new = path, tree, function, node, new
        self.key = f"{path.stem}.{function}: {kind}"
        self.name = f"{path.stem}.{function}: {' -> '.join(text_of(node, new))}"
        if node is not statement:
            self.name += f" in {text_of(statement)[0]}"
        self.lines = range(node.lineno, max(node.lineno, getattr(node, "end_lineno", 0)) + 1)

    def code(self):
        """The changed code of the function."""

        class Replace(ast.NodeTransformer):
            def visit(visitor, node):
                return self.new if node is self.node else super().visit(node)

        # nodes on the way are changed in place: this runs in a process of its own
        tree = ast.fix_missing_locations(Replace().visit(self.tree))
        code = compile(tree, str(self.path), "exec")
        for part in self.function.split("."):
            (code,) = [c for c in code.co_consts if getattr(c, "co_name", None) == part]
        return code

    def put(self):
        target = sys.modules[f"keras_unpatchify.{self.path.stem}"]
        for part in self.function.split("."):
            target = inspect.getattr_static(target, part)
        target = getattr(target, "fget", None) or getattr(target, "__func__", target)
        inspect.unwrap(target).__code__ = self.code()


def functions(tree, prefix=""):
    """Functions of a module and methods of its classes, by qualified names."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        if isinstance(node, ast.FunctionDef):
            yield f"{prefix}{node.name}", node


def inside(node, statement=None):
    """The nodes of a function's body but for docstrings, f-strings and annotations, each with the
    statement that holds it."""
    for child in ast.iter_child_nodes(node):
        docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        if not docstring and not isinstance(child, (ast.JoinedStr, ast.arguments)):
            holder = child if isinstance(child, ast.stmt) else statement
            yield child, holder
            yield from inside(child, holder)


def mutants():
    """Every mutant of every function of the package."""
    for path in sorted(PACKAGE.glob("*.py")):
        tree = ast.parse(path.read_text())
        for name, function in functions(tree):
            decorators = {id(n) for d in function.decorator_list for n in ast.walk(d)}
            parts = [function.returns] if function.returns else []
            annotations = {id(n) for part in parts for n in ast.walk(part)}
            for node, statement in inside(function):
                if id(node) not in decorators | annotations and hasattr(node, "lineno"):
                    for kind, new in changed(node):
                        new = ast.copy_location(new, node)
                        yield Mutant(path, tree, name, statement, node, kind, new)


class Tests:
    """A plugin that keeps the tests that are collected, and runs some of them in forks."""

    def __init__(self, number, only):
        self.number, self.only, self.failed = number, only, []
        self.survivors = collections.defaultdict(list)
        self.failures, self.folder = collections.Counter(), pathlib.Path(tempfile.mkdtemp())

    def pytest_runtest_logreport(self, report):
        self.failed += [report.nodeid] * report.failed

    def pytest_runtestloop(self, session):
        self.items = session.items
        self.reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        self.reach()
        chosen = [m for m in mutants() if any(text in m.name for text in self.only)]
        # the same ones where other code changes
        chosen.sort(key=lambda mutant: zlib.crc32(mutant.name.encode()))
        del chosen[self.number :]
        others = [mutant for mutant in chosen if not self.reaching(mutant)]
        print(f"{len(others)} of {len(chosen)} are in lines that other backends run", flush=True)
        chosen = [mutant for mutant in chosen if mutant not in others]
        running, start, self.total = {}, time.time(), len(chosen)
        gc.collect()
        gc.freeze()  # so that collections in the forks copy none of it
        for i, mutant in enumerate([*chosen, None, None]):
            while len(running) >= (2 if mutant else 1) and running:
                pid, status = os.wait()
                survivor = running.pop(pid)
                self.total -= os.waitstatus_to_exitcode(status) == NOT_PUT
                note = self.folder / str(pid)
                if note.exists():
                    self.failures[note.read_text()] += 1
                if status == 0:
                    self.survivors[survivor.key].append(survivor.name)
                    print(f"survives: {survivor.name}", flush=True)
            if mutant is None:
                continue
            running[self.fork(mutant)] = mutant
            if i % 25 == 24:
                print(f"{i + 1} of {len(chosen)}, {time.time() - start:.0f} s", flush=True)
        return True

    def fork(self, mutant):
        """A process that ends with 0 if no test fails."""
        pid = os.fork()
        if pid:
            return pid
        signal.setitimer(signal.ITIMER_PROF, 5 * SECONDS)
        nowhere = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        self.reporter._tw._file = nowhere
        try:
            mutant.put()
        except ValueError:  # it no longer calls `super`, and a function keeps what it closes over
            os._exit(NOT_PUT)
        failing = self.run(self.of(mutant))
        if failing:
            (self.folder / str(os.getpid())).write_text(failing.originalname)
        os._exit(bool(failing))

    def run(self, items):
        """The first of the tests that fails."""
        for item, following in itertools.zip_longest(items, items[1:]):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                return item
        return None

    def reaching(self, mutant):
        """Tests that run a line of the mutant."""
        lines = {f"{mutant.path.name}:{n}" for n in mutant.lines}
        return [i for i in self.items if lines & self.reached[self.group(i)]]

    def of(self, mutant):
        """Tests that reach the mutant, in their order, for so many seconds."""
        reaching = self.reaching(mutant)
        reaching.sort(key=lambda item: self.seconds[self.group(item)])
        turns, seen = [], collections.Counter()
        for item in reaching:
            turns.append(seen[item.originalname])
            seen[item.originalname] += 1
        failures = [self.failures[item.originalname] for item in reaching]
        order = sorted(range(len(reaching)), key=lambda n: (turns[n], -failures[n]))
        chosen, seconds = [], 0
        for n in order:
            seconds += self.seconds[self.group(reaching[n])]
            if seconds > SECONDS:
                break
            chosen.append(reaching[n])
        return chosen

    @staticmethod
    def group(item):
        """A test, or all that share what one of them computes."""
        params = getattr(getattr(item, "callspec", None), "indices", {})
        return f"computed {params['computed']}" if "computed" in params else item.nodeid

    def reach(self):
        """Which lines each test runs, and for how long, found in a process of its own."""
        file = self.folder / "reached.json"
        pid = os.fork()
        if not pid:
            measured = coverage.Coverage(source=[str(PACKAGE)], data_file=None, config_file=False)
            seconds = collections.Counter()
            measured.start()
            for item, following in itertools.zip_longest(self.items, self.items[1:]):
                group, start = self.group(item), time.process_time()
                measured.switch_context(group)
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                seconds[group] = max(seconds[group], time.process_time() - start)
            measured.stop()
            data, reached = measured.get_data(), collections.defaultdict(list)
            for path in data.measured_files():
                for line, contexts in data.contexts_by_lineno(path).items():
                    for context in contexts:
                        reached[context].append(f"{pathlib.Path(path).name}:{line}")
            file.write_text(json.dumps([reached, seconds, self.failed]))
            os._exit(0)
        os.waitpid(pid, 0)
        reached, self.seconds, failed = json.loads(file.read_text())
        if failed:
            pytest.exit(f"without any change fail: {' '.join(failed)}", returncode=1)
        self.reached = collections.defaultdict(set, {k: set(v) for k, v in reached.items()})
        print(f"\n{len(self.items)} tests without a change", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--only", action="append", help="mutants whose names hold such a text")
    arguments, rest = parser.parse_known_args()
    # the same examples each time, and no failure because the machine is slow
    checks = list(hypothesis.HealthCheck)
    hypothesis.settings.register_profile(
        "mutate", deadline=None, derandomize=True, database=None, suppress_health_check=checks
    )
    hypothesis.settings.load_profile("mutate")
    tests = Tests(arguments.number, arguments.only or [""])
    status = pytest.main(
        ["-q", "-p", "no:cacheprovider", "--disable-warnings", "-k", QUICK, *rest], plugins=[tests]
    )
    if status not in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(status)
    known = tomllib.loads((HERE / "mutants.toml").read_text())
    more = {
        key: names
        for key, names in tests.survivors.items()
        if len(names) > known.get(key, {"most": 0})["most"]
    }
    survivors = sum(map(len, tests.survivors.values()))
    print(f"{tests.total - survivors} of {tests.total} mutants are caught, {survivors} survive")
    print("More survive than are listed of:")
    for key, names in more.items():
        print(f"{key}: {len(names)}", *names, sep="\n    ")
    raise SystemExit(bool(more))


if __name__ == "__main__":
    main()
