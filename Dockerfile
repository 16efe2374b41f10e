# The HTTP service in a container: docker build -t messi-anything . && docker run -p 8000:8000 -e MESSI_TOKEN=secret messi-anything
# For a GPU: docker build --build-arg TORCH_INDEX= . gives the CUDA build of the package index, and docker run --gpus all starts it;
# the driver is the host's.
FROM python:3.12-slim

# PyTorch publishes its CPU builds on an index of its own: 200 MB instead of 6 GB
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
RUN pip install ${TORCH_INDEX:+--index-url $TORCH_INDEX} torch torchvision

WORKDIR /app
COPY setup.py settings.ini README.md LICENSE MANIFEST.in ./
COPY messi_anything messi_anything
RUN pip install '.[serve]' && rm -rf /app && useradd --create-home messi

USER messi
WORKDIR /home/messi
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# reached from outside the container only with a token: set MESSI_TOKEN
ENTRYPOINT ["messi_serve", "--host", "0.0.0.0"]
