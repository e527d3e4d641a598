// An HTTP server whose handlers block the loop in the ways that people do by accident.
require("http")
  .createServer((request, response) => {
    if (request.url === "/spin") for (;;);
    if (request.url === "/child") require("child_process").execSync("sleep 1000");
    response.end("well");
  })
  .listen(Number(process.argv[2]), "127.0.0.1");
