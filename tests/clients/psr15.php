<?php

// An application that answers "page", behind the middleware of PSR-15. Its messages are those of nyholm/psr7.
declare(strict_types=1);

namespace Psr\Http\Server {
    // The interfaces of PSR-15, which Debian does not have.
    interface RequestHandlerInterface
    {
        public function handle(\Psr\Http\Message\ServerRequestInterface $request): \Psr\Http\Message\ResponseInterface;
    }

    interface MiddlewareInterface
    {
        public function process(
            \Psr\Http\Message\ServerRequestInterface $request,
            RequestHandlerInterface $handler,
        ): \Psr\Http\Message\ResponseInterface;
    }
}

namespace {
    require_once 'Nyholm/Psr7/autoload.php';
    require_once __DIR__ . '/../../clients/php/limiter.php';
    require_once __DIR__ . '/../../clients/php/Psr15Middleware.php';

    $settings = [];
    if (isset($_SERVER['HTTP_X_LIMIT'])) {
        $settings = ['LIMITER_LIMIT' => $_SERVER['HTTP_X_LIMIT'], 'LIMITER_KEY' => 'header:X-Key'];
    }
    $factory = new Nyholm\Psr7\Factory\Psr17Factory();
    $handler = new class ($factory) implements Psr\Http\Server\RequestHandlerInterface {
        public function __construct(private Nyholm\Psr7\Factory\Psr17Factory $factory)
        {
        }

        public function handle(Psr\Http\Message\ServerRequestInterface $request): Psr\Http\Message\ResponseInterface
        {
            $body = $this->factory->createStream('page');
            return $this->factory->createResponse()->withHeader('Content-Type', 'text/plain')->withBody($body);
        }
    };
    $request = new Nyholm\Psr7\ServerRequest(
        $_SERVER['REQUEST_METHOD'],
        $_SERVER['REQUEST_URI'],
        getallheaders(),
        null,
        '1.1',
        $_SERVER,
    );
    $response = (new Limiter\Psr15Middleware($factory, $settings))->process($request, $handler);
    http_response_code($response->getStatusCode());
    foreach ($response->getHeaders() as $name => $values) {
        header("$name: " . implode(', ', $values));
    }
    echo $response->getBody();
}
