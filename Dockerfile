# Images for clusters that hack/cluster did not make. COMMAND is the package to build: ./cmd/sluice or ./examples/payments.
# Untried where Sluice is built, which has no Docker.
FROM golang:1.26 AS build
ARG COMMAND=./cmd/sluice
ARG VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X github.com/sluice-project/sluice/runtime/command.Version=${VERSION}" -o /program ${COMMAND}

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /program /program
USER 65532:65532
ENTRYPOINT ["/program"]
