# frozen_string_literal: true

# The driver of the Ruby client: a JSON text on each line of standard input, and its answer on standard output.
require 'json'
require ARGV[0]
$stdout.sync = true

def arithmetic(it)
  limit = Limiter::Notation.parse(it['limit']).first
  case it['do']
  when 'look' then limit.look(it['names'], it['now'])
  when 'taken' then limit.taken(it['name'], it['now'], it['provisional'])
  when 'returned' then limit.returned(it['name'], it['claim'], it['now'])
  end
end

def flood(it)
  admitted = []
  denied = []
  while (start = Limiter.clock) < it['until'] || denied.empty?
    allowed = Limiter.hit(it['root'], it['limits'], it['app'], '').allowed
    (allowed ? admitted : denied) << [start, Limiter.clock]
  end
  [admitted, denied]
end

def answer(it)
  case it['do']
  when 'parse' then Limiter::Notation.parse(it['text']).map { |limit| [limit.directory(0), limit.window] }
  when 'app_id' then Limiter::Request.new(it['variables'].transform_values { |value| value.unpack1('m') }).app_id(it['key'])
  when 'hit' then Limiter.hit(it['root'], it['limits'], it['app'], it['newcomers']).allowed
  when 'flood' then flood(it)
  else arithmetic(it)
  end
end

$stdin.each_line do |line|
  reply =
    begin
      { is: answer(JSON.parse(line)) }
    rescue Limiter::Mistake => e
      { mistake: e.message }
    rescue Limiter::StoreError => e
      { errno: e.symbol }
    end
  puts JSON.generate(reply)
end
