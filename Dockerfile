# nemo_birq on NeMo's container.
#
# NeMo 3.0 has no published container yet: build one from NeMo's repository (docker buildx build -f docker/Dockerfile -t nemo-speech .),
# then build this image:
#
#     docker build --build-arg BASE_IMAGE=nemo-speech -t nemo_birq .
#     docker run --rm -it --gpus all --shm-size=16g -v /data:/data -v "$PWD:/workspace" nemo_birq birq --help
#
# The tests do not build this image, because they cannot reach the base image. They install the same wheel into a fresh
# environment (.ci/check_wheel).
ARG BASE_IMAGE=nemo-speech
FROM ${BASE_IMAGE}

COPY pyproject.toml setup.py README.md LICENSE /opt/nemo_birq/
COPY nemo_birq /opt/nemo_birq/nemo_birq
COPY conf /opt/nemo_birq/conf

# pip keeps the PyTorch and the NeMo of the base image if they satisfy pyproject.toml. The build fails with an older NeMo.
ARG EXTRAS=export,ffmpeg,s3
RUN (python -m pip --version || python -m ensurepip) \
    && python -c "import importlib.metadata as m; assert int(m.version('nemo_toolkit').split('.')[0]) >= 3, 'the base image has an older NeMo'" \
    && python -m pip install --no-cache-dir "/opt/nemo_birq[${EXTRAS}]" \
    && birq --version

ENV NEMO_BIRQ_CACHE=/workspace/.cache/nemo_birq
WORKDIR /workspace
CMD ["birq", "--help"]
