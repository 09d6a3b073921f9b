# frozen_string_literal: true

require_relative '../limiter'

module Limiter
  # Rack middleware: answers 401, 429 or 500 itself, or adds the RateLimit header fields to the answer.
  #
  #     require 'limiter/rack'
  #     use Limiter::Rack, 'LIMITER_ROOT' => '/var/lib/my-app', 'LIMITER_LIMIT' => '10/second'
  #
  # A setting that is not given here is an environment variable.
  class Rack
    def initialize(app, settings = {})
      @app = app
      @settings = settings
      @environment = ENV.select { |name, _| name.start_with?('LIMITER_') }
    end

    def call(env)
      request = Request.new(@environment.merge(env, @settings))
      status, decision = request.answer
      # Rack 3 wants the names in lower case, and Rack 2 does not mind.
      fields = request.fields(status, decision).to_h.transform_keys(&:downcase)
      return [status, fields, [request.body(status)]] unless status == 200

      status, headers, body = @app.call(env)
      [status, headers.merge(fields), body]
    end
  end
end
