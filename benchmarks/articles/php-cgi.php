<?php

// The limiter of the 2017 article, step by step: see the file python.
const QUOTA = 10;

function limit(): array
{
    $moment = sprintf('%.6f', microtime(true));
    $second = (int) $moment;
    if (!isset($_GET['app_id'])) {
        return [401, 'Unauthorized'];
    }
    // Apache's Action renames the variables.
    $root = ($_SERVER['ARTICLE_ROOT'] ?? $_SERVER['REDIRECT_ARTICLE_ROOT']) . '/' . $_GET['app_id'];
    if (!is_dir($root) && !mkdir($root, 0775, true)) {
        throw new Exception("Could not make $root");
    }
    if (!touch("$root/$moment")) {
        throw new Exception("Could not make $moment");
    }
    $count = 0;
    foreach (glob("$root/*") as $path) {
        if (!is_file($path)) {
            continue;
        }
        $name = basename($path);
        if ((int) $name === $second) {
            if ((float) $moment < (float) $name) {
                continue; // another request has overtaken this one
            }
            if (++$count > QUOTA) {
                return [429, 'Too Many Requests'];
            }
        } elseif ((int) $name < $second) {
            unlink($path);
        }
    }
    return [200, 'OK'];
}

try {
    [$status, $reason] = limit();
} catch (Exception) {
    [$status, $reason] = [500, 'Internal Server Error'];
}
http_response_code($status);
header('Content-Type: application/json; charset=utf-8');
echo $status === 200 ? 'page' : json_encode(['message' => $reason]);
