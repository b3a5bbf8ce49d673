# make demo   sets up, drives the three tasks over ROS 2, leaves a bag and a film in out/demo
# make test   sets up, runs every test
# Vary: make demo TASK=apple METHOD=dense RATIO=0 SEED=7 OUT=out/mine     make test ARGS="-k wire"     make test ROS=0
SHELL := /bin/bash
VENV ?= $(if $(filter 0,$(ROS)),.venv-without-ros,.venv)
PYTHON ?=
ROS ?= 1
TASK ?= all
METHOD ?= ecovla
RATIO ?= 0.25
SEED ?= 1
OUT ?= out/demo
ARGS ?=
PROCESSES ?= 2
DEVICE ?= cuda
ONLY ?=
FOLDER ?=

# A sourced ROS 2 and the wheels of .venv must not meet in one process.
unexport PYTHONPATH PYTHONHOME CMAKE_PREFIX_PATH COLCON_PREFIX_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
export AMENT_PREFIX_PATH := $(abspath $(VENV))
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST

.DEFAULT_GOAL := help
.PHONY: help setup libero demo test gpu docs study tables clean colcon

help:  ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

setup:  ## make the virtual environment; a second run needs no network
	@ROS=$(ROS) tools/setup.sh "$(VENV)" "$(PYTHON)"

libero:  ## the environment for the LIBERO benchmark, .venv-libero (2 GB): ecovla train --benchmark libero, ecovla eval --benchmark
	@tools/setup_libero.sh "$(if $(filter .venv .venv-without-ros,$(VENV)),.venv-libero,$(VENV))" $(PYTHON)

demo: setup  ## drive the three tasks over ROS 2 (TASK, METHOD, RATIO, SEED, OUT)
	@exec "$(VENV)/bin/ecovla" demo --task "$(TASK)" --method "$(METHOD)" --ratio "$(RATIO)" --seed "$(SEED)" --out "$(OUT)" $(ARGS)

test: setup  ## run every test (ARGS: more for pytest)
	@exec "$(VENV)/bin/python" -m pytest test $(ARGS)

gpu:  ## tests and benches on a GPU, without setup: torch, triton, transformers, opencv and pytest suffice (ONLY, DEVICE=cpu, FOLDER)
	@PYTHONPATH="$(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))" exec "$(or $(PYTHON),python3)" -m ecovla_ros.bench.speed.gpu_steps $(if $(FOLDER),--folder "$(FOLDER)") \
	  --device "$(DEVICE)" --only "$(ONLY)" $(ARGS)

EVAL = "$(VENV)/bin/ecovla" eval --seed 10000 --margin 0.02 --processes "$(PROCESSES)" --resume
BOUND = $(EVAL) --episodes 67 --environments looks,calm,shift --set policy.rtc=8 --json results/table-rtc-release.json
MOST = --method dense,random,wanda,static,ecovla --refresh dense,probe --ratio 0.125,0.25,0.375,0.5

study: results/latency-study.json  ## the success table, 201 to 600 episodes a cell: about twelve hours of a core; goes on where it stopped (PROCESSES)
	@$(EVAL) --episodes 200 --method dense --ratio 0.25 --environments calm,looks --json results/table.json
	@$(EVAL) --episodes 200 --method dense,ecovla --ratio 0.25 --environments calm,shift --json results/table.json
	@$(EVAL) --episodes 67 --method dense,static,wanda,ecovla --ratio 0.375 --environments shift,calm --json results/table.json
	@$(EVAL) --episodes 67 $(MOST) --environments calm,looks,shift --latency $< --json results/table.json
	@$(EVAL) --episodes 67 $(MOST) --environments latency --latency $< --json results/table-latency.json
	@$(EVAL) --episodes 67 --method dense,static,ecovla --ratio 0.5 --environments looks,calm,shift \
	  --set policy.rtc=8 --set policy.rtc_release=never --json results/table-rtc.json
	@$(BOUND) --method dense,static,ecovla --ratio 0.5
	@$(BOUND) --method dense,ecovla --ratio 0.25
	@"$(VENV)/bin/python" -m ecovla_ros.bench.success.paired results/table-rtc-release.json results/table.json \
	  --json results/rtc-pairs.json

results/latency-study.json:
	@"$(VENV)/bin/ecovla" bench --method dense,random,wanda,static,ecovla --ratios 0.125,0.25,0.375,0.5 \
	  --frames 100 --set policy.threads=1 --json $@

colcon: setup  ## colcon build and colcon test with the wheels of .venv; leaves out/colcon/install/setup.bash
	@exec tools/colcon.sh "$(VENV)"

docs: setup  ## build the documentation into out/site; any warning is an error
	@NO_MKDOCS_2_WARNING=1 "$(VENV)/bin/python" -m mkdocs build --strict && echo "out/site/index.html"

READS = test/bags/test_field.py test/bags/test_read.py test/wire test/train/test_lerobot.py test/serve/test_clients.py test/models
reads:  ## run the tests that show what is read, and write results/reads.json, of which a table is made
	@"$(VENV)/bin/python" -m pytest -q $(READS) --reads results/reads.json

tables:  ## write the tables of README.md and docs/ from results/*.json (ARGS=--check: only tell whether they are)
	@"$(VENV)/bin/python" -m ecovla_ros.publish.tables $(ARGS)

clean:  ## remove what was built; keeps .venv and out
	rm -rf build install log *.egg-info ecovla_ros/msg ecovla_ros/srv ecovla_ros/*.so "$(VENV)/.ecovla/messages"
