# Thin: every target is a few CMake, CTest or program calls, which work by hand too (see CMakePresets.json).
#
#   make demo       set up, build, train recipe mnist, evaluate, predict a few digits
#   make test       set up, build everything, run all tests
#   make build      set up, build the program: build/falconet
#   make install    install it all below PREFIX (/usr/local)
#   make asan tsan  build with sanitizers and run the tests
#   make clean      remove the build folders
#
# FALCONET_CUDA=auto|on|off   with NVIDIA GPUs: where nvcc and a GPU are found (auto), in any case, not at all
# SETUP=true                  leave the packages of this machine alone
FALCONET_CUDA ?= auto
PREFIX ?= /usr/local
SETUP ?= tools/setup.sh
ifeq ($(filter auto on off,$(FALCONET_CUDA)),)
$(error FALCONET_CUDA should be auto, on or off, not '$(FALCONET_CUDA)')
endif
PRESET := $(shell tools/choose_preset.sh $(FALCONET_CUDA))
CUDA_TARGETS := falconet_program test_plans test_recompute test_cuda_errors gpu_conv gpu_agreement gpu_training gpu_feeds gpu_commands
NVCC := $(shell tools/choose_preset.sh nvcc)

.PHONY: build demo test install asan tsan setup configure clean
build: configure
	cmake --build build --target falconet_program

demo: build
	rm -rf runs/demo
	build/falconet train recipe=mnist run=runs/demo
	build/falconet eval model=runs/demo data=mnist:data/mnist
	build/falconet predict model=runs/demo data=mnist:data/mnist count=8

test: configure
	cmake --build build
ifeq ($(FALCONET_CUDA),off)
	@echo "make test: FALCONET_CUDA=off, so the cuda preset is not compiled"
else ifeq ($(NVCC),)
	@echo "make test: no nvcc, so the cuda preset is not compiled"
else ifeq ($(PRESET),cpu)
	@echo "make test: compiling the cuda preset too, with $(NVCC); the tests that need a GPU skip and say so"
	cmake --preset cuda >/dev/null
	cmake --build build-cuda --target $(CUDA_TARGETS)
	ctest --test-dir build-cuda --output-on-failure -R '^(test_plans|test_recompute|test_cuda_errors|gpu_.*)$$'
endif
	ctest --test-dir build --output-on-failure --parallel $(shell nproc)

install: build
	cmake --install build --prefix $(PREFIX)

asan tsan: setup
	cmake --preset $@ >/dev/null
	cmake --build --preset $@
	ctest --preset $@

configure: setup
	cmake --preset $(PRESET) -B build >/dev/null

setup:
	@$(SETUP)

clean:
	rm -rf build build-*
