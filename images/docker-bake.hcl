// docker buildx bake -f images/docker-bake.hcl [cpu|cuda]: all images, their shared layers built once.
variable "REGISTRY" { default = "localhost/aios-alignment" }
variable "VERSION" { default = "0.1.0" }
variable "REVISION" { default = "unknown" }   // REVISION=$(git rev-parse HEAD)
variable "BASE" { default = "docker.io/library/python:3.11-slim-bookworm" }

group "default" { targets = ["cpu"] }

target "cpu" {
  matrix = { image = ["launcher", "gui", "ingest", "rm", "dpo", "evaluation", "fetch-model"] }
  name = "cpu-${image}"
  context = "."
  dockerfile = "images/Containerfile"
  target = image
  tags = ["${REGISTRY}/${image}:${VERSION}-cpu"]
  platforms = ["linux/amd64"]
  args = { BASE = BASE, VERSION = VERSION, REVISION = REVISION, TORCH = "torch==2.13.0+cpu" }
}

target "cuda" {
  matrix = { image = ["launcher", "gui", "ingest", "rm", "dpo", "evaluation", "fetch-model"] }
  name = "cuda-${image}"
  context = "."
  dockerfile = "images/Containerfile"
  target = image
  tags = ["${REGISTRY}/${image}:${VERSION}-cuda"]
  platforms = ["linux/amd64"]
  args = { BASE = BASE, VERSION = VERSION, REVISION = REVISION, TORCH = "torch==2.13.0", TORCH_LINKS = "https://download.pytorch.org/whl/cu130/torch/" }
}
