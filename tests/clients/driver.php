<?php
// The driver of the PHP client: a JSON text on each line of standard input, and its answer on standard output.
declare(strict_types=1);
require $argv[1];

function answer(array $it): mixed
{
    $limit = isset($it['limit']) ? Limiter\parse($it['limit'])[0] : null;
    switch ($it['do']) {
        case 'parse':
            return array_map(fn ($limit) => [$limit->directory(0), $limit->window], Limiter\parse($it['text']));
        case 'look':
            return $limit->look($it['names'], $it['now']);
        case 'taken':
            return $limit->taken($it['name'], $it['now'], $it['provisional']);
        case 'returned':
            return $limit->returned($it['name'], $it['claim'], $it['now']);
        case 'app_id':
            $variables = array_map(base64_decode(...), $it['variables']);
            return (new Limiter\Request($variables))->appId($it['key']);
        case 'hit':
            return Limiter\hit($it['root'], $it['limits'], $it['app'], $it['newcomers'])->allowed;
        case 'flood':
            $admitted = $denied = [];
            while (($begin = Limiter\clock()) < $it['until'] || !$denied) {
                $allowed = Limiter\hit($it['root'], $it['limits'], $it['app'], '')->allowed;
                $allowed ? $admitted[] = [$begin, Limiter\clock()] : $denied[] = [$begin, Limiter\clock()];
            }
            return [$admitted, $denied];
    }
}

while (($line = fgets(STDIN)) !== false) {
    try {
        $answer = ['is' => answer(json_decode($line, true))];
    } catch (Limiter\StoreError $error) {
        $answer = ['errno' => $error->symbol];
    } catch (Limiter\Mistake $error) {
        $answer = ['mistake' => $error->getMessage()];
    }
    echo json_encode($answer), "\n";
}
