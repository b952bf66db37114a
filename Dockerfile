# The demo in a container. The first build installs the pinned packages; the text is fetched when the container runs.
#
#   docker build -t tinylm-ablate .
#   docker run --rm -v "$PWD/runs:/app/runs" -v "$PWD/results:/app/results" tinylm-ablate
#   docker run --rm -v "$PWD/runs:/app/runs" tinylm-ablate .venv/bin/tinylm-ablate plan -m arch.depth=20,40
FROM python:3.11-slim

# make runs the targets, g++ compiles layers, and MLflow looks for git.
RUN apt-get update && apt-get install -y --no-install-recommends g++ git make && rm -rf /var/lib/apt/lists/*

WORKDIR /app

# The packages first, so that a change of the code does not install them again. Docker on a laptop has no GPU: the CPU build of
# torch is a tenth of the size; `--build-arg TORCH_ARGS=` takes the default build.
ARG TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu"
COPY pyproject.toml constraints.txt Makefile README.md LICENSE ./
COPY tinylm_ablate/version.py tinylm_ablate/version.py
RUN make setup TORCH_ARGS="$TORCH_ARGS"

COPY . .
RUN touch .venv/.installed
CMD ["make", "demo"]
