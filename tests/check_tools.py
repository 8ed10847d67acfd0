#!/usr/bin/env python3
"""The checks of tools/ find what they are there to find: each is shown one tree in order and several with one fault.

usage: check_tools.py
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def layers(files):
    """Output of check_layers over a tree with these files, empty when all is well."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = pathlib.Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        result = subprocess.run([sys.executable, ROOT / "tools/check_layers.py", folder], capture_output=True, text=True)
        assert (result.returncode == 0) == (result.stderr == ""), result
        return result.stderr


class Layers(unittest.TestCase):
    def one(self, source, include):
        return layers({source: f"#include {include}\n"})

    def accepts(self, source, include):
        self.assertEqual(self.one(source, include), "")

    def refuses(self, source, include, reason):
        self.assertIn(reason, self.one(source, include))

    def test_downward_includes_pass(self):
        self.accepts("falconet/graph/graph.h", '"falconet/tensor/tensor.h"')
        self.accepts("falconet/train/trainer.cpp", '"falconet/data/dataset.h"')
        self.accepts("falconet/data/mnist.cpp", '"falconet/base/error.h"')
        self.accepts("falconet/falconet.h", '"falconet/train/trainer.h"')
        self.accepts("cli/main.cpp", '"falconet/plan/plan.h"')
        self.accepts("falconet/base/format.h", "<fmt/format.h>")
        self.accepts("falconet/base/settings_toml.cpp", "<toml++/toml.h>")

    def test_upward_includes_fail(self):
        self.refuses("falconet/base/error.cpp", '"falconet/tensor/tensor.h"', "base may not see tensor")
        self.refuses("falconet/graph/graph.h", '"falconet/ops/algorithm.h"', "graph may not see ops")
        self.refuses("falconet/ops/gradients.cpp", '"falconet/plan/plan.h"', "ops may not see plan")
        self.refuses("falconet/data/loader.cpp", '"falconet/device/device.h"', "data may not see device")
        self.refuses("falconet/io/checkpoint.cpp", '"falconet/graph/graph.h"', "io may not see graph")
        self.refuses("falconet/plan/plan.h", '"falconet/train/trainer.h"', "plan may not see train")
        self.refuses("falconet/train/trainer.h", '"falconet/falconet.h"', "train may not see falconet.h")
        self.refuses("falconet/newcomer/x.h", '"falconet/base/error.h"', "no place in the order")
        self.refuses("falconet/train/trainer.cpp", '"cli/verbs.h"', "only its own files")

    def test_kernels_see_little(self):
        self.accepts("falconet/ops/conv/cpu/direct.cpp", '"falconet/ops/conv/problem.h"')
        self.accepts("falconet/ops/conv/cpu/im2col_gemm.cpp", '"falconet/ops/gemm/cpu/blocked.h"')
        self.accepts("falconet/ops/conv/cuda/naive.cu", '"falconet/ops/fusion.h"')
        self.refuses("falconet/ops/conv/cpu/direct.cpp", '"falconet/graph/graph.h"', "kernels see only")
        self.refuses("falconet/ops/conv/cuda/naive.cu", '"falconet/ops/conv/op.h"', "kernels see only")
        self.refuses("falconet/ops/conv/cpu/direct.cpp", '"falconet/ops/pool/problem.h"', "kernels see only")
        self.refuses("falconet/ops/conv/problem.h", '"falconet/graph/op.h"', "kernels see only")

    def test_private_libraries_stay_in_cpp_files(self):
        self.refuses("falconet/plan/plan.h", '"falconet/base/format.h"', ".cpp files only")
        self.refuses("falconet/plan/plan.h", "<nlohmann/json.hpp>", ".cpp files only")
        self.refuses("falconet/ops/conv/cuda/naive.cu", '"falconet/base/format.h"', ".cpp files only")

    def test_examples_know_the_public_api_alone(self):
        self.accepts("examples/01_train.cpp", '"falconet/falconet.h"')
        self.refuses("examples/01_train.cpp", '"falconet/plan/plan.h"', "public API")
        self.assertEqual(layers({"falconet/falconet.h": '#include "falconet/nn/model.h"\n', "falconet/nn/model.h": '#include "falconet/base/error.h"\n',
                                 "examples/01_train.cpp": '#include "falconet/base/error.h"\n'}), "")


class InstructionSets(unittest.TestCase):
    def check(self, code, isa="avx2"):
        with tempfile.TemporaryDirectory() as folder:
            source, target = pathlib.Path(folder, "kernel.cpp"), pathlib.Path(folder, "kernel.o")
            source.write_text(code)
            subprocess.run(["c++", "-std=c++20", "-O0", "-c", source, "-o", target], check=True)
            result = subprocess.run([sys.executable, ROOT / "tools/check_isa_objects.py", isa, target], capture_output=True, text=True)
            return result.stderr

    def test_symbols_in_their_own_namespace_pass(self):
        self.assertEqual(self.check("""
            namespace falconet::avx2 {
            struct Base { virtual int f() const { static int calls = 0; return ++calls; } };
            template <class T> T twice(T x) { return x + x; }
            namespace { int hidden() { return 1; } }
            extern int const table; int const table = twice(hidden()) + Base().f();
            }
            namespace hwy::N_AVX2 { inline int Add(int a) { return a; } }
            static int local() { return hwy::N_AVX2::Add(1); }
            int const unseen = local();"""), "")

    def test_weak_and_global_symbols_outside_fail(self):
        self.assertIn("std::", self.check("#include <vector>\nnamespace falconet::avx2 { int f() { return std::vector<int>(3).size(); } }"))
        self.assertIn("falconet::round_up(int)", self.check("namespace falconet { inline int round_up(int x) { return x; } }"
                                                            " namespace falconet::avx2 { int f(int x) { return round_up(x); } }"))
        self.assertIn("falconet::avx512::f()", self.check("namespace falconet::avx512 { int f() { return 1; } }"))
        self.assertIn("hwy::Align(int)", self.check("namespace hwy { inline int Align(int x) { return x; } } namespace falconet::avx2 { int f() { return hwy::Align(1); } }"))
        self.assertIn("main", self.check("int main() {}"))


class Program(unittest.TestCase):
    def check(self, flags, *options):
        with tempfile.TemporaryDirectory() as folder:
            source, target = pathlib.Path(folder, "main.cpp"), pathlib.Path(folder, "main")
            source.write_text('#include <iostream>\nint main() { std::cout << "x"; }')
            subprocess.run(["c++", source, "-o", target, *flags], check=True)
            result = subprocess.run([sys.executable, ROOT / "tools/check_program.py", target, *options], capture_output=True, text=True)
            return result.stderr

    def test_a_program_of_glibc_alone_passes(self):
        self.assertEqual(self.check(["-static-libstdc++"]), "")

    def test_a_shared_library_or_too_many_bytes_fail(self):
        self.assertIn("needs libstdc++.so.6", self.check([]))
        self.assertIn("bytes stripped", self.check(["-static-libstdc++"], "--most", "1000"))


class SetUp(unittest.TestCase):
    """tools/setup.sh among programs of our own: nothing is installed."""

    def run_with(self, user, lacking, apt="exit 0"):
        with tempfile.TemporaryDirectory() as folder:
            calls = pathlib.Path(folder, "calls")
            for name, script in {
                "id": f"echo {user}",
                "apt-get": f'echo "$@" >>{calls}; {apt}',
                # The compiler finds every header but those lacking, and these too once apt-get has installed something.
                "cxx": f'cat >/dev/null; grep -q " install " {calls} 2>/dev/null || printf "%s\\n" {" ".join(lacking) or chr(39) * 2}',
            }.items():
                path = pathlib.Path(folder, name)
                path.write_text(f"#!/bin/sh\n{script}\n")
                path.chmod(0o755)
            environment = dict(os.environ, PATH=f"{folder}:{os.environ['PATH']}", CXX="cxx")
            result = subprocess.run([ROOT / "tools/setup.sh"], env=environment, capture_output=True, text=True)
            return result, calls.read_text() if calls.exists() else ""

    def test_a_complete_machine_is_left_alone(self):
        result, calls = self.run_with(user=0, lacking=[])
        self.assertEqual((result.returncode, result.stdout, result.stderr, calls), (0, "", "", ""))

    def test_root_installs_what_is_missing_and_only_that(self):
        result, calls = self.run_with(user=0, lacking=["libhwy-dev", "libpng-dev"])
        self.assertEqual((result.returncode, result.stdout), (0, "installing libhwy-dev libpng-dev\n"), result.stderr)
        self.assertEqual(calls, "-q -y --no-install-recommends install libhwy-dev libpng-dev\n")

    def test_without_root_the_packages_are_named(self):
        result, calls = self.run_with(user=1000, lacking=["libhwy-dev", "libpng-dev"])
        self.assertEqual((result.returncode, calls), (1, ""))
        self.assertIn("\n  sudo apt-get install libhwy-dev libpng-dev\n", result.stderr)

    def test_package_lists_are_fetched_when_a_package_is_not_known(self):
        result, calls = self.run_with(user=0, lacking=["libhwy-dev"], apt='[ "$2" = update ] || [ -e "$0.known" ] || { touch "$0.known"; exit 100; }')
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual([line.split()[1] for line in calls.splitlines()], ["-y", "update", "-y"])

    def test_a_failed_installation_is_an_error(self):
        result, _ = self.run_with(user=0, lacking=["libhwy-dev"], apt="echo no network; exit 100")
        self.assertEqual(result.returncode, 1)
        self.assertIn("no network", result.stderr)
        self.assertIn("error: apt-get could not install libhwy-dev", result.stderr)


class GpuCheck(unittest.TestCase):
    def sanitized(self, test, body):
        """Output of gpu-check over a built tree with this one test, under a sanitizer that finds nothing."""
        with tempfile.TemporaryDirectory() as folder:
            for name, text in {"build/" + test: body, "bin/compute-sanitizer": 'while [ "$1" != "" ] && [ ! -x "$1" ]; do shift; done\n"$@"\ncode=$?\necho "========= ERROR SUMMARY: 0 errors"\nexit $code\n',
                               "build/falconet": "echo falconet"}.items():
                path = pathlib.Path(folder, name)
                path.parent.mkdir(exist_ok=True)
                path.write_text("#!/bin/sh\n" + text)
                path.chmod(0o755)
            pathlib.Path(folder, "build/CTestTestfile.cmake").write_text(f'add_test({test} "{folder}/build/{test}")\nset_tests_properties({test} PROPERTIES LABELS gpu)\n')
            result = subprocess.run([sys.executable, ROOT / "tools/gpu-check", pathlib.Path(folder, "build"), "--sanitizer", "memcheck"], capture_output=True, text=True,
                                    env=dict(os.environ, PATH=f"{folder}/bin:{os.environ['PATH']}"))
            return result.returncode, result.stdout + result.stderr

    @unittest.skipUnless(shutil.which("ctest"), "ctest is not on the PATH")
    def test_what_a_sanitizer_cannot_watch_is_left_out_and_said(self):
        code, out = self.sanitized("gpu_commands", '[ "$1" = sanitized ] || { echo FAILED; exit 1; }\necho "ok     a promise"\necho "left out under a sanitizer: another"\n')
        self.assertEqual(code, 0, out)
        self.assertRegex(out, "memcheck +gpu_commands +ok .*1 of 1 promises; left out under a sanitizer: another")

    @unittest.skipUnless(shutil.which("ctest"), "ctest is not on the PATH")
    def test_a_broken_promise_fails(self):
        code, out = self.sanitized("gpu_commands", "echo 'FAILED a promise'; exit 1")
        self.assertEqual(code, 1, out)


if __name__ == "__main__":
    unittest.main()
