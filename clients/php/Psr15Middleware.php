<?php

declare(strict_types=1);

namespace Limiter;

use Psr\Http\Message\ResponseFactoryInterface;
use Psr\Http\Message\ResponseInterface;
use Psr\Http\Message\ServerRequestInterface;
use Psr\Http\Server\MiddlewareInterface;
use Psr\Http\Server\RequestHandlerInterface;

/**
 * PSR-15 middleware: answers 401, 429 or 500 itself, or adds the RateLimit header fields to what is answered.
 *
 *     $app->add(new Limiter\Psr15Middleware($responseFactory, ['LIMITER_ROOT' => '/var/lib/my-app']));
 *
 * A setting that is not given here is a server parameter or an environment variable.
 */
final class Psr15Middleware implements MiddlewareInterface
{
    /** @param array<string, string> $settings */
    public function __construct(
        private readonly ResponseFactoryInterface $responses,
        private readonly array $settings = [],
    ) {
    }

    public function process(ServerRequestInterface $request, RequestHandlerInterface $handler): ResponseInterface
    {
        // What a request says of itself: a server that stays has other things in its parameters.
        $variables = ['QUERY_STRING' => $request->getUri()->getQuery(), 'REQUEST_METHOD' => $request->getMethod()];
        foreach ($request->getHeaders() as $name => $values) {
            $variables['HTTP_' . \strtoupper(\strtr((string) $name, '-', '_'))] = \implode(', ', $values);
        }
        $answer = (new Request([...$request->getServerParams(), ...$variables, ...$this->settings]))->answer();
        $isAdmitted = $answer->status === 200;
        $response = $isAdmitted ? $handler->handle($request) : $this->responses->createResponse($answer->status);
        foreach ($answer->fields as [$name, $value]) {
            $response = $response->withHeader($name, $value);
        }
        if (!$isAdmitted) {
            $response->getBody()->write($answer->body);
        }
        return $response;
    }
}
