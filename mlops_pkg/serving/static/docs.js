'use strict';
SwaggerUIBundle({url: 'openapi.json', dom_id: '#docs', presets: [SwaggerUIBundle.presets.apis], layout: 'BaseLayout',
  validatorUrl: null, deepLinking: true, defaultModelsExpandDepth: 0, displayRequestDuration: true});
