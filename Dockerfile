# docker build -t genebank . && docker run --rm -p 8080:8080 genebank
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
RUN useradd --system --no-create-home --uid 10001 genebank \
    && install -d -o genebank /var/lib/genebank
# The program looks for genes in ../share/genebank/models, relative to its folder.
COPY --from=build /src/target/release/genebank /usr/local/bin/genebank
COPY models /usr/local/share/genebank/models
USER genebank
# The program stores tuned models in .cache/genebank in the current folder.
WORKDIR /var/lib/genebank
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
    CMD genebank list --server http://127.0.0.1:8080 || exit 1
ENTRYPOINT ["genebank"]
CMD ["serve", "--listen", "0.0.0.0:8080"]
